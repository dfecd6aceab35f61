//! Where a batch writes its lines, and what is known of those written before.

use std::path::Path;
use std::time::Duration;

use threadrunner_home::Home;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::BatchError;
use crate::input::Input;
use crate::ledger::{Entry, Ledger};
use crate::out::{Before, OutFile};
use crate::seen::Seen;

/// How much of the output a power failure may take. The next run asks for it again.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Where a batch writes its lines, and what is known of those written before.
#[derive(Debug)]
pub struct Output {
    pub(crate) sink: Sink,
    pub(crate) seen: Seen,
    pub(crate) before: Before,
    pub(crate) ledger: Ledger,
    /// What an earlier run left under way, by slot.
    pub(crate) under_way: Vec<(usize, Entry)>,
}

impl Output {
    /// A file. If it exists, the batch that wrote it is resumed; with `retry_failed`, lines that
    /// failed are asked again.
    ///
    /// # Errors
    /// The file cannot be used, is `input`, is in use, or is not from a batch; or the home cannot
    /// be written.
    pub fn file(
        home: &Home,
        path: &Path,
        input: &Input,
        retry_failed: bool,
    ) -> Result<Self, BatchError> {
        let mut seen = Seen::default();
        let (out, before) = OutFile::open(path, input.file(), retry_failed, &mut seen)?;
        let (ledger, under_way) = Ledger::open(home, &out.absolute(), !before.existed)?;
        Ok(Self { sink: Sink::File(out), seen, before, ledger, under_way })
    }

    /// The caller writes the lines, as [`BatchEvent::Line`](crate::BatchEvent::Line) brings them.
    /// Such a batch cannot be resumed.
    pub fn events() -> Self {
        Self {
            sink: Sink::Events,
            seen: Seen::default(),
            before: Before::default(),
            ledger: Ledger::none(),
            under_way: Vec::new(),
        }
    }
}

/// Where a batch writes its lines.
#[derive(Debug)]
pub(crate) enum Sink {
    /// A file.
    File(OutFile),
    /// Events.
    Events,
}

/// Syncs the output file in the background, at most every [`SYNC_EVERY`].
#[derive(Debug, Default)]
pub(crate) struct Syncer {
    last: Option<Instant>,
    under_way: Option<JoinHandle<()>>,
}

impl Sink {
    /// Checks that what was written is where the user will look for it.
    pub(crate) fn check(&self) -> Result<(), BatchError> {
        match self {
            Self::File(out) => out.check(),
            Self::Events => Ok(()),
        }
    }

    /// Syncs what was written, so that it survives a power failure.
    pub(crate) fn sync(&self) -> Result<(), BatchError> {
        match self {
            Self::File(out) => out.sync(),
            Self::Events => Ok(()),
        }
    }
}

impl Syncer {
    /// Waits for a sync under way, which keeps the file open and so locked.
    pub(crate) async fn end(&mut self) {
        if let Some(sync) = self.under_way.take() {
            // It reports nothing, and cannot be canceled.
            let _ = sync.await;
        }
    }

    /// Starts a sync if one is due.
    pub(crate) fn now_and_then(&mut self, sink: &Sink) {
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
