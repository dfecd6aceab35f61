//! How a batch ends: complete, or before its time.

use std::sync::Arc;
use std::time::Duration;

use threadrunner_core::protocol::{JobRecord, Op};
use threadrunner_core::{ExitCode, JobId};
use tokio::time::{Instant, timeout};

use super::runner::Runner;
use crate::app::Session;
use crate::commands::ids::query;
use crate::error::{CommandError, CommandResult};
use crate::output;

/// How long jobs that are canceled at the end may take to be so.
const FAREWELL: Duration = Duration::from_secs(5);

impl Runner {
    pub(super) fn finish(self, session: &mut Session) -> CommandResult {
        session.spinner.end();
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
        self.tasks.abort_all();
        let asked_for = matches!(error, CommandError::Interrupted | CommandError::ReaderGone);
        let canceled = if asked_for { self.cancel_all(session).await } else { 0 };
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
        while let Ok(accepted) = self.accepted.try_recv() {
            // What is not noted is found by its tag.
            let _ = self.accepted(accepted);
        }
        let daemon = Arc::clone(&self.daemon);
        let jobs: Vec<(usize, JobId)> = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(slot, entry)| Some((slot, entry.as_ref()?.job.clone()?)))
            .collect();
        let canceling = async {
            let client = daemon.connect().await.ok().flatten()?;
            let mut canceled = Vec::new();
            let mut replies = Vec::new();
            for (slot, job) in jobs {
                replies
                    .push((slot, client.request(Op::Cancel(query(job.to_string()))).await.ok()?));
            }
            for (slot, replies) in replies {
                // One that ended meanwhile keeps its answer, for the next run.
                if replies.into_value::<JobRecord>().await.is_ok() {
                    canceled.push(slot);
                }
            }
            Some(canceled)
        };
        // A second Ctrl-C ends this too.
        let canceled = match session.attend(timeout(FAREWELL, canceling)).await {
            Ok(Ok(Some(canceled))) => canceled,
            _ => Vec::new(),
        };
        for &slot in &canceled {
            // A canceled job that stays noted is asked anew all the same.
            let _ = self.ledger.note(slot, None);
        }
        canceled.len()
    }
}
