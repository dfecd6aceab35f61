//! Where a batch writes its lines.

use std::time::Duration;

use threadrunner_core::Failure;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::out::OutFile;
use crate::error::CommandError;
use crate::output;
use crate::session::Session;

/// How much of the output a power failure may take. The next run asks for it again.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Where a batch writes its lines.
#[derive(Debug)]
pub(super) enum Sink {
    /// A file.
    File(OutFile),
    /// Standard output.
    Stdout,
}

/// Syncs the output file in the background, at most every [`SYNC_EVERY`].
#[derive(Debug, Default)]
pub(super) struct Syncer {
    last: Option<Instant>,
    under_way: Option<JoinHandle<()>>,
}

impl Sink {
    /// Writes a line.
    pub(super) async fn write(
        &mut self,
        session: &mut Session,
        line: &[u8],
    ) -> Result<(), CommandError> {
        match self {
            Self::File(out) => Ok(out.append(line)?),
            Self::Stdout => {
                session.spinner.hide();
                let text = String::from_utf8_lossy(line);
                Ok(session.attend(output::print_patiently(&text)).await??)
            }
        }
    }

    /// Checks that what was written is where the user will look for it.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match self {
            Self::File(out) => out.check(),
            Self::Stdout => Ok(()),
        }
    }

    /// The path of the file, for messages.
    pub(super) fn name(&self) -> Option<String> {
        match self {
            Self::File(out) => Some(out.path().display().to_string()),
            Self::Stdout => None,
        }
    }

    /// Syncs what was written, so that it survives a power failure.
    pub(super) fn sync(&self) -> Result<(), Failure> {
        match self {
            Self::File(out) => out.sync(),
            Self::Stdout => Ok(()),
        }
    }
}

impl Syncer {
    /// Starts a sync if one is due.
    pub(super) fn now_and_then(&mut self, sink: &Sink) {
        let Sink::File(out) = sink else { return };
        let busy = self.under_way.as_ref().is_some_and(|sync| !sync.is_finished());
        if busy || self.last.is_some_and(|last| last.elapsed() < SYNC_EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        if let Ok(file) = out.handle() {
            self.under_way = Some(tokio::task::spawn_blocking(move || {
                // The sync at the end reports errors.
                let _ = file.sync_data();
            }));
        }
    }
}
