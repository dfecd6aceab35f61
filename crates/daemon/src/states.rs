//! The directories in which engines keep the cached state of sessions, so that a conversation need
//! not be read again after its model was unloaded.
//!
//! Each model has a directory of its own, and its engine can write to no other: an engine taken
//! over by a hostile model file can read no other model's conversations. All of it is a cache, so
//! anything lost is computed again.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use threadrunner_core::engine_protocol::{MOST_STATES, StateDirectory};
use threadrunner_core::{CacheName, ModelRef, fnv};

/// The maximum number of files in a model's directory, twice as many as an engine keeps. Files
/// beyond that are not looked at, however small they are, and are removed.
pub(crate) const MOST_FILES: usize = 2 * MOST_STATES;

/// The root of the state directories, and their budget.
#[derive(Debug)]
pub(crate) struct States {
    root: PathBuf,
    budget: u64,
    /// Sessions that are gone. An engine that still has one loaded may write its state again.
    forgotten: Vec<CacheName>,
}

impl States {
    /// The states below `root`, of at most `budget` bytes. With a budget of 0, removes and keeps
    /// none.
    pub(crate) fn new(root: PathBuf, budget: u64) -> Self {
        if budget == 0 {
            note(&root, "remove", fs::remove_dir_all(&root));
        }
        Self { root, budget, forgotten: Vec::new() }
    }

    /// Creates the directory of a model. Its limit is what the other models' files leave of the
    /// budget. Returns `None` if the budget is 0 or the directory cannot be created.
    pub(crate) fn directory(&self, model: &ModelRef) -> Option<StateDirectory> {
        if self.budget == 0 {
            return None;
        }
        let path = model.path.as_deref().map(|path| path.as_os_str().as_encoded_bytes());
        let name = fnv::name_of(&[model.backend.as_str().as_bytes(), path.unwrap_or_default()]);
        let path = self.root.join(name);
        if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(&path) {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot keep the cached state of sessions");
            return None;
        }
        remove_beyond(&path);
        // A model always gets at least half of the budget.
        let others = self.trim_others(&path, self.budget / 2);
        Some(StateDirectory { path, max_bytes: self.budget.saturating_sub(others) })
    }

    /// Removes the state of a session that is gone.
    pub(crate) fn forget(&mut self, state: CacheName) {
        self.remove(&state);
        self.forgotten.push(state);
    }

    /// Removes the states of forgotten sessions again, and files beyond the budget: an engine may
    /// have written them when it exited.
    pub(crate) fn engine_ended(&self) {
        for state in &self.forgotten {
            self.remove(state);
        }
        if self.budget > 0 {
            // No directory has an empty path, so this counts all of them.
            self.trim_others(Path::new(""), self.budget);
        }
    }

    fn remove(&self, state: &CacheName) {
        let Some(file) = state.file_name() else { return };
        for directory in directories(&self.root) {
            let path = directory.join(&file);
            note(&path, "remove", fs::remove_file(&path));
        }
    }

    /// Removes the oldest files outside `own` until they have at most `most` bytes together.
    /// Returns how many they have.
    fn trim_others(&self, own: &Path, most: u64) -> u64 {
        let others: Vec<_> = directories(&self.root).filter(|directory| directory != own).collect();
        others.iter().for_each(|directory| remove_beyond(directory));
        let mut files: Vec<_> = others.iter().flat_map(|directory| files(directory)).collect();
        files.sort_unstable_by_key(|file| file.changed);
        let mut bytes = files.iter().map(|file| file.bytes).sum::<u64>();
        for file in files {
            if bytes <= most {
                break;
            }
            note(&file.path, "remove", fs::remove_file(&file.path));
            bytes -= file.bytes;
        }
        bytes
    }
}

#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    pub(crate) bytes: u64,
    changed: SystemTime,
}

fn directories(root: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir())
}

/// The files in a directory, but no more than one beyond [`MOST_FILES`].
pub(crate) fn files(directory: &Path) -> Vec<StateFile> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().take(MOST_FILES + 1);
    let file = |entry: fs::DirEntry| {
        let metadata = entry.metadata().ok()?;
        let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Some(StateFile { path: entry.path(), bytes: metadata.len(), changed })
    };
    entries.filter_map(file).collect()
}

/// Removes the files beyond [`MOST_FILES`]. Only an engine that was taken over makes so many.
fn remove_beyond(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.skip(MOST_FILES) {
        let path = entry.path();
        if let Err(error) = fs::remove_file(&path) {
            return note(&path, "remove", Err(error));
        }
    }
}

fn note(path: &Path, verb: &str, done: io::Result<()>) {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot {verb} cached session state");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;
    use threadrunner_core::BackendKind;

    fn model(path: &str) -> ModelRef {
        ModelRef { backend: BackendKind::Llama, path: Some(path.into()), draft: None }
    }

    fn write(directory: &StateDirectory, session: &str, bytes: usize, age_s: u64) -> PathBuf {
        let path = directory.path.join(CacheName::from(session).file_name().unwrap());
        fs::write(&path, vec![0; bytes]).unwrap();
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 - age_s);
        File::options().write(true).open(&path).unwrap().set_modified(changed).unwrap();
        path
    }

    #[test]
    fn each_model_has_a_private_directory_and_what_the_others_leave_of_the_budget() {
        let temp = tempfile::tempdir().unwrap();
        let states = States::new(temp.path().join("state"), 100);
        let first = states.directory(&model("/a")).unwrap();
        assert_eq!(first.max_bytes, 100);
        assert_eq!(fs::metadata(&first.path).unwrap().permissions().mode() & 0o777, 0o700);
        let (old, young) = (write(&first, "old", 40, 9), write(&first, "young", 30, 1));
        assert_eq!(states.directory(&model("/a")).unwrap(), first);
        let second = states.directory(&model("/b")).unwrap();
        assert_ne!(second.path, first.path);
        assert_eq!(second.max_bytes, 70);
        assert!(!old.exists() && young.exists());
    }

    #[test]
    fn what_is_forgotten_is_forgotten_also_when_an_engine_writes_it_again() {
        let temp = tempfile::tempdir().unwrap();
        let mut states = States::new(temp.path().join("state"), 100);
        let directory = states.directory(&model("/a")).unwrap();
        let (gone, kept) = (write(&directory, "gone", 1, 0), write(&directory, "kept", 1, 0));
        states.forget("gone".into());
        assert!(!gone.exists());
        write(&directory, "gone", 1, 0);
        states.engine_ended();
        assert!(!gone.exists() && kept.exists());
    }

    #[test]
    fn files_beyond_any_number_that_an_engine_needs_are_neither_looked_at_nor_kept() {
        let temp = tempfile::tempdir().unwrap();
        let states = States::new(temp.path().join("state"), 100);
        let directory = states.directory(&model("/a")).unwrap();
        for n in 0..MOST_FILES + 1000 {
            File::create(directory.path.join(format!("s{n}"))).unwrap();
        }
        assert_eq!(files(&directory.path).len(), MOST_FILES + 1);
        states.engine_ended();
        assert_eq!(fs::read_dir(&directory.path).unwrap().count(), MOST_FILES);
        File::create(directory.path.join("more")).unwrap();
        states.directory(&model("/a")).unwrap();
        assert_eq!(fs::read_dir(&directory.path).unwrap().count(), MOST_FILES);
    }

    #[test]
    fn what_an_engine_wrote_beyond_the_budget_is_removed_when_it_has_ended() {
        let temp = tempfile::tempdir().unwrap();
        let states = States::new(temp.path().join("state"), 100);
        let directory = states.directory(&model("/a")).unwrap();
        let files: Vec<_> =
            (0..5).map(|n| write(&directory, &format!("s{n}"), 40, 100 - n)).collect();
        states.engine_ended();
        let kept: Vec<_> = files.iter().map(|file| file.exists()).collect();
        assert_eq!(kept, [false, false, false, true, true]);
    }

    #[test]
    fn without_a_budget_there_is_nothing_and_nothing_is_left() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("state");
        let directory = States::new(root.clone(), 100).directory(&model("/a")).unwrap();
        write(&directory, "a", 1, 0);
        assert_eq!(States::new(root.clone(), 0).directory(&model("/a")), None);
        assert!(!root.exists());
    }
}
