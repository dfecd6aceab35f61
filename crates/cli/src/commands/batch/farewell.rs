//! The last words of a batch, complete or stopped.

use std::path::Path;
use std::time::Duration;

use threadrunner_batch::Batch;
use threadrunner_core::ExitCode;
use tokio::time::{Instant, timeout};

use super::words::failure;
use super::{name, progress};
use crate::error::{CommandError, CommandResult};
use crate::output;
use crate::session::Session;

/// How long to wait for jobs to be canceled when a batch is stopped.
const FAREWELL: Duration = Duration::from_secs(5);

/// Ends a batch of which every line is answered.
pub(super) async fn finish(
    session: &mut Session,
    batch: Batch,
    out: Option<&Path>,
) -> CommandResult {
    session.spinner.end();
    let counts = batch.finish().await.map_err(failure)?;
    let to = name(out).map(|name| format!("{name}: ")).unwrap_or_default();
    output::say(&format!("{to}{}", progress::summary(&counts, Instant::now())));
    if counts.all_failed() == 0 {
        return Ok(ExitCode::Success);
    }
    if out.is_some() {
        output::say("run it again with `--retry-failed` to retry the failed lines");
    }
    Ok(ExitCode::Failed)
}

/// Ends early: cancels the jobs under way if the user stopped the batch, and says how to resume.
pub(super) async fn leave(
    session: &mut Session,
    mut batch: Batch,
    out: Option<&Path>,
    error: &CommandError,
) {
    if matches!(error, CommandError::Interrupted | CommandError::ReaderGone) {
        // A second Ctrl-C ends the wait.
        let _ = session.attend(timeout(FAREWELL, batch.cancel())).await;
    }
    let stopped = batch.stop().await;
    if matches!(error, CommandError::ReaderGone) {
        return;
    }
    let jobs = match stopped.canceled {
        0 => String::new(),
        1 => ", 1 job was canceled".to_owned(),
        canceled => format!(", {canceled} jobs were canceled"),
    };
    let written = stopped.counts.written();
    output::say(&match (name(out), stopped.output) {
        (None, _) => format!("threadrunner: stopped; lines written: {written}{jobs}"),
        (Some(name), Ok(())) => format!(
            "threadrunner: stopped: lines in {name}: {written}{jobs}; run the same command again \
             to resume"
        ),
        (Some(_), Err(_)) => {
            format!("threadrunner: stopped{jobs}; run the same command again to resume")
        }
    });
}
