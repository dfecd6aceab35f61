//! Ends a batch, complete or early.

use threadrunner_core::protocol::ask;

use crate::batch::Batch;
use crate::counts::Counts;
use crate::error::BatchError;
use crate::job::Accepted;
use crate::ledger::Entry;

/// What is left of a batch that ended early.
#[derive(Debug)]
pub struct Stopped {
    /// How many of its jobs [`Batch::cancel`] canceled.
    pub canceled: usize,
    /// The counts.
    pub counts: Counts,
    /// Whether the output still has every line that was written to it.
    pub output: Result<(), BatchError>,
}

impl Batch {
    /// Ends a batch of which every line is answered. The next one may write to the same output.
    ///
    /// # Errors
    /// The output is not what was written, or cannot be synced.
    pub async fn finish(mut self) -> Result<Counts, BatchError> {
        self.sink.check()?;
        self.sink.sync()?;
        self.syncer.end().await;
        self.ledger.remove();
        Ok(self.counts)
    }

    /// Cancels the jobs under way, because the user wants the batch to stop. Without it, they
    /// continue, and the next run takes them over. The future may be dropped at any time: what is
    /// canceled by then counts.
    pub async fn cancel(&mut self) {
        self.be_heard().await;
        let Ok(Some(client)) = self.daemon.connect().await else { return };
        let mut replies = Vec::new();
        for (slot, entry) in self.slots.iter().enumerate() {
            let Some(Entry { job, .. }) = entry else { continue };
            let Ok(reply) = client.request(ask::Cancel(job.into())).await else { return };
            replies.push((slot, reply));
        }
        for (slot, reply) in replies {
            // A job that has ended meanwhile keeps its answer for the next run.
            if reply.into_answer::<ask::Cancel>().await.is_ok() {
                self.canceled += 1;
                // If this fails, the next run finds the job canceled and submits another.
                let _ = self.ledger.note(slot, None);
            }
        }
    }

    /// Ends a batch early. The next one with the same output resumes it.
    pub async fn stop(mut self) -> Stopped {
        self.tasks.abort_all();
        self.count_written();
        // A power failure may take what was not synced; the next run asks for it again.
        let _ = self.sink.sync();
        self.syncer.end().await;
        Stopped { canceled: self.canceled, output: self.sink.check(), counts: self.counts }
    }

    /// Waits until the daemon has accepted every submitted job. One that is still on its way could
    /// not be canceled, and would run.
    async fn be_heard(&mut self) {
        while !self.unheard.is_empty() {
            let slot = tokio::select! {
                Some(Accepted(slot)) = self.accepted.recv() => slot,
                Some(Ok((work, _))) = self.tasks.join_next() => work.slot,
                else => return,
            };
            self.unheard.remove(&slot);
        }
    }
}
