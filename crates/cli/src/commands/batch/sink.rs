//! Where answers go.

use std::time::Duration;

use threadrunner_core::Failure;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::out::OutFile;
use crate::app::Session;
use crate::error::CommandError;
use crate::output;

/// How much of the output a power failure may take: what it takes is asked again.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Where answers go.
#[derive(Debug)]
pub(super) enum Sink {
    /// A file.
    File(OutFile),
    /// Standard output.
    Stdout,
}

/// Has the file survive a power failure now and then, without anybody waiting for it.
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

    /// Whether what was written is where somebody will look for it.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match self {
            Self::File(out) => out.check(),
            Self::Stdout => Ok(()),
        }
    }

    /// The file's name, for people.
    pub(super) fn name(&self) -> Option<String> {
        match self {
            Self::File(out) => Some(out.path().display().to_string()),
            Self::Stdout => None,
        }
    }

    /// Has all that was written survive a power failure.
    pub(super) fn sync(&self) -> Result<(), Failure> {
        match self {
            Self::File(out) => out.sync(),
            Self::Stdout => Ok(()),
        }
    }
}

impl Syncer {
    /// Begins a sync where one is due.
    pub(super) fn now_and_then(&mut self, sink: &Sink) {
        let Sink::File(out) = sink else { return };
        let busy = self.under_way.as_ref().is_some_and(|sync| !sync.is_finished());
        if busy || self.last.is_some_and(|last| last.elapsed() < SYNC_EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        if let Ok(file) = out.handle() {
            self.under_way = Some(tokio::task::spawn_blocking(move || {
                // The sync at the end tells of what is wrong.
                let _ = file.sync_data();
            }));
        }
    }
}
