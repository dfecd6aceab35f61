//! How a batch ends: complete, or before its time.

use std::time::Duration;

use threadrunner_core::ExitCode;
use threadrunner_core::protocol::ask;
use tokio::time::{Instant, timeout};

use super::job::Accepted;
use super::ledger::Entry;
use super::runner::Runner;
use crate::app::Session;
use crate::commands::ids::query_of;
use crate::error::{CommandError, CommandResult};
use crate::output;

/// How long jobs that are canceled at the end may take to be so.
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
                output::say("run it again with --retry-failed to try those that failed once more");
            }
            self.ledger.remove();
            return Ok(ExitCode::Failed);
        }
        self.ledger.remove();
        Ok(ExitCode::Success)
    }

    /// Ends early: cancels what is under way where somebody asked for the end, and says how to go
    /// on.
    pub(super) async fn leave(&mut self, session: &mut Session, error: &CommandError) {
        let asked_for = matches!(error, CommandError::Interrupted | CommandError::ReaderGone);
        let canceled = if asked_for { self.cancel_all(session).await } else { 0 };
        self.tasks.abort_all();
        // What could not be synced is asked again after a power failure.
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
                output::say(&format!("threadrunner: stopped{jobs}; the same command goes on"));
            }
            Some(name) => output::say(&format!(
                "threadrunner: stopped: {} lines are in {name}{jobs}; the same command goes on",
                self.counts.written()
            )),
            None => output::say(&format!(
                "threadrunner: stopped after {} lines{jobs}",
                self.counts.written()
            )),
        }
    }

    async fn cancel_all(&mut self, session: &mut Session) -> usize {
        let mut canceled = Vec::new();
        // A second Ctrl-C ends this too.
        let _ = session.attend(timeout(FAREWELL, self.cancel_each(&mut canceled))).await;
        for &slot in &canceled {
            // A canceled job that stays noted is asked anew all the same.
            let _ = self.ledger.note(slot, None);
        }
        canceled.len()
    }

    /// Cancels the jobs under way; `canceled` gets their slots, also where this is not seen to its
    /// end.
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
            // One that ended meanwhile keeps its answer, for the next run.
            if reply.into_answer::<ask::Cancel>().await.is_ok() {
                canceled.push(slot);
            }
        }
    }

    /// Waits until the daemon has heard of each job that it was asked for: one that it has not
    /// heard of could not be canceled, and would run on.
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
