//! The directory of saved states.

use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use threadrunner_core::engine_protocol::{MOST_STATES, StateDirectory};
use threadrunner_core::scheduler::{SavedStates, Session};
use threadrunner_core::{CacheName, ModelBackend, ModelDigest, TokenId};

use super::file::{self, Opened, Unusable};
use super::fingerprint;

/// The suffix of a file that is being written.
const UNFINISHED: &str = ".tmp";
/// The age at which an unfinished file counts as abandoned: an engine that exits gets only seconds.
const ABANDONED: Duration = Duration::from_secs(60);

/// The saved states of one model's sessions.
#[derive(Debug)]
pub struct States {
    directory: PathBuf,
    max_bytes: u64,
    fingerprint: String,
}

impl States {
    /// Opens the states in `directory` that `backend`, which has loaded `model`, can restore. `None` if
    /// it can restore none or the model file cannot be read.
    pub fn new(
        directory: &StateDirectory,
        model: Option<(&Path, &ModelDigest)>,
        backend: &dyn ModelBackend,
    ) -> Option<Self> {
        let Some(format) = backend.state_format() else {
            tracing::info!("this model's sessions cannot be saved");
            return None;
        };
        let fingerprint = fingerprint::of(model, &format);
        let fingerprint = fingerprint
            .inspect_err(|error| tracing::warn!("cannot save sessions: model file: {error}"));
        let StateDirectory { path, max_bytes } = directory.clone();
        Some(Self { directory: path, max_bytes, fingerprint: fingerprint.ok()? })
    }

    /// Opens the states in `directory` that have this fingerprint.
    #[cfg(test)]
    pub(super) fn of(directory: PathBuf, max_bytes: u64, fingerprint: &str) -> Self {
        Self { directory, max_bytes, fingerprint: fingerprint.to_owned() }
    }

    /// Returns the session with this name and the tokens that were saved of it. `None` if that is
    /// not a valid name.
    pub fn session(&self, name: CacheName) -> Option<Session> {
        let Some(path) = self.path(&name) else {
            tracing::warn!("a session's name takes 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'");
            return None;
        };
        let saved = self.open(&path).map(|opened| opened.tokens).unwrap_or_default();
        Some(Session { name, saved })
    }

    fn path(&self, session: &CacheName) -> Option<PathBuf> {
        Some(self.directory.join(session.file_name()?))
    }

    /// Opens the file at `path` if it is usable. Removes one that never will be.
    fn open(&self, path: &Path) -> Option<Opened> {
        let opened = file::open(path, &self.fingerprint);
        opened.unwrap_or_else(|unusable| {
            Self::discard(path, &unusable);
            None
        })
    }

    fn discard(path: &Path, unusable: &Unusable) {
        tracing::debug!("ignoring the state {}: {unusable}", path.display());
        if unusable.for_good()
            && let Err(error) = fs::remove_file(path)
        {
            tracing::debug!("cannot remove {}: {error}", path.display());
        }
    }

    fn save(&self, session: &CacheName, tokens: &[TokenId], state: &[u8]) -> io::Result<()> {
        let Some(path) = self.path(session) else { return Ok(()) };
        let length = file::length(&self.fingerprint, tokens, state);
        if length > self.max_bytes {
            tracing::debug!("not saving a session: its {length} bytes are over the limit");
            return Ok(());
        }
        self.make_room(length, &path)?;
        let name = format!(".{session}.{}{UNFINISHED}", std::process::id());
        let unfinished = self.directory.join(name);
        file::write(&unfinished, &self.fingerprint, tokens, state)
            .and_then(|()| fs::rename(&unfinished, &path))
            .inspect_err(|_| drop(fs::remove_file(&unfinished)))
    }

    /// Removes abandoned files, then the least recently used ones, until one of `length` bytes fits
    /// in place of that at `path`, also by number.
    fn make_room(&self, length: u64, path: &Path) -> io::Result<()> {
        let now = SystemTime::now();
        let mut files: Vec<Kept> =
            fs::read_dir(&self.directory)?.flatten().filter_map(|entry| Kept::of(&entry)).collect();
        files.retain(|kept| {
            let age = now.duration_since(kept.used).unwrap_or_default();
            let abandoned = kept.unfinished && age > ABANDONED;
            let gone = abandoned && fs::remove_file(&kept.path).is_ok();
            !gone && kept.path != path
        });
        let mut all: u64 = files.iter().map(|kept| kept.bytes).sum();
        let mut count = files.len();
        files.retain(|kept| !kept.unfinished);
        files.sort_by_key(|kept| kept.used);
        for kept in files {
            if all.saturating_add(length) <= self.max_bytes && count < MOST_STATES {
                break;
            }
            tracing::debug!("removing {} to make room for another session", kept.path.display());
            fs::remove_file(&kept.path)?;
            all -= kept.bytes;
            count -= 1;
        }
        Ok(())
    }
}

/// A file in the directory.
struct Kept {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
    unfinished: bool,
}

impl Kept {
    /// Returns `None` for anything but a state. Such files are left alone.
    fn of(entry: &DirEntry) -> Option<Self> {
        let name = entry.file_name();
        let name = name.to_str()?;
        let unfinished = name.starts_with('.') && name.ends_with(UNFINISHED);
        if !unfinished && !CacheName::is_of_file(name) {
            return None;
        }
        let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        let used = metadata.modified().ok()?;
        Some(Self { path: entry.path(), bytes: metadata.len(), used, unfinished })
    }
}

impl SavedStates for States {
    fn most_bytes(&self) -> usize {
        usize::try_from(self.max_bytes).unwrap_or(usize::MAX)
    }

    fn read(&mut self, session: &CacheName, tokens: &[TokenId]) -> Option<Vec<u8>> {
        let start = Instant::now();
        let path = self.path(session)?;
        let opened = self.open(&path).filter(|opened| opened.tokens == tokens)?;
        let state = opened.state().inspect_err(|unusable| Self::discard(&path, unusable)).ok()?;
        tracing::debug!(
            tokens = tokens.len(),
            bytes = state.len(),
            took = ?start.elapsed(),
            "read the state of a session"
        );
        Some(state)
    }

    fn write(&mut self, session: &CacheName, tokens: &[TokenId], state: &[u8]) {
        let start = Instant::now();
        match self.save(session, tokens, state) {
            Ok(()) => tracing::debug!(
                tokens = tokens.len(),
                bytes = state.len(),
                took = ?start.elapsed(),
                "saved the state of a session"
            ),
            Err(error) => tracing::warn!(
                "cannot save the state of a session in {}: {error}",
                self.directory.display()
            ),
        }
    }
}
