//! Ends a batch, complete or early.

use std::time::Duration;

use threadrunner_core::ExitCode;
use threadrunner_core::protocol::ask;
use tokio::time::{Instant, timeout};

use super::job::Accepted;
use super::ledger::Entry;
use super::runner::Runner;
use crate::commands::ids::query_of;
use crate::error::{CommandError, CommandResult};
use crate::output;
use crate::session::Session;

/// How long to wait for jobs to be canceled when a batch is stopped.
const FAREWELL: Duration = Duration::from_secs(5);

impl Runner {
    pub(super) fn finish(self, session: &mut Session) -> CommandResult {
        session.spinner.end();
        self.sink.check()?;
        self.sink.sync()?;
        let name = self.sink.name();
        let to = name.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        output::say(&format!("{to}{}", self.counts.summary(Instant::now())));
        if self.counts.any_failed() {
            if name.is_some() {
                output::say("run it again with `--retry-failed` to retry the failed lines");
            }
            self.ledger.remove();
            return Ok(ExitCode::Failed);
        }
        self.ledger.remove();
        Ok(ExitCode::Success)
    }

    /// Ends early: cancels the jobs under way if the user stopped the batch, and says how to
    /// resume.
    pub(super) async fn leave(&mut self, session: &mut Session, error: &CommandError) {
        let asked_for = matches!(error, CommandError::Interrupted | CommandError::ReaderGone);
        let canceled = if asked_for { self.cancel_all(session).await } else { 0 };
        self.tasks.abort_all();
        // A power failure may take what was not synced; the next run asks for it again.
        let _ = self.sink.sync();
        if matches!(error, CommandError::ReaderGone) {
            return;
        }
        let jobs = match canceled {
            0 => String::new(),
            1 => ", 1 job was canceled".to_owned(),
            _ => format!(", {canceled} jobs were canceled"),
        };
        match self.sink.name() {
            Some(_) if self.sink.check().is_err() => {
                output::say(&format!(
                    "threadrunner: stopped{jobs}; run the same command again to resume"
                ));
            }
            Some(name) => output::say(&format!(
                "threadrunner: stopped: lines in {name}: {}{jobs}; run the same command again to \
                 resume",
                self.counts.written()
            )),
            None => output::say(&format!(
                "threadrunner: stopped; lines written: {}{jobs}",
                self.counts.written()
            )),
        }
    }

    async fn cancel_all(&mut self, session: &mut Session) -> usize {
        let mut canceled = Vec::new();
        // A second Ctrl-C ends the wait.
        let _ = session.attend(timeout(FAREWELL, self.cancel_each(&mut canceled))).await;
        for &slot in &canceled {
            // If this fails, the next run finds the job canceled and submits another.
            let _ = self.ledger.note(slot, None);
        }
        canceled.len()
    }

    /// Cancels the jobs under way. Adds each slot to `canceled` at once, because the future may be
    /// dropped before it is done.
    async fn cancel_each(&mut self, canceled: &mut Vec<usize>) {
        self.be_heard().await;
        let Ok(Some(client)) = self.daemon.connect().await else { return };
        let mut replies = Vec::new();
        for (slot, entry) in self.slots.iter().enumerate() {
            let Some(Entry { job, .. }) = entry else { continue };
            let Ok(reply) = client.request(ask::Cancel(query_of(job))).await else { return };
            replies.push((slot, reply));
        }
        for (slot, reply) in replies {
            // A job that has ended meanwhile keeps its answer for the next run.
            if reply.into_answer::<ask::Cancel>().await.is_ok() {
                canceled.push(slot);
            }
        }
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
