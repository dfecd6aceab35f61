//! File locks that end with the process that holds them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use threadrunner_core::{ErrorCode, Failure};

use crate::{Links, open_regular, read_regular};

/// The longest note, in bytes: a note is a path.
const LONGEST_NOTE: u64 = 4096;

/// An exclusive lock on a file, held until dropped, or until the process ends in whatever way.
///
/// The file stays. Whether it exists says nothing; only whether it is locked does.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// Takes the lock. Blocks the thread while another process holds it.
    ///
    /// # Errors
    /// The file cannot be opened or locked.
    pub fn wait(path: &Path) -> Result<Self, Failure> {
        let file = open(path)?;
        file.lock().map_err(|error| failed("lock", path, &error))?;
        Ok(Self { file })
    }

    /// Takes the lock; `None` if another process holds it.
    ///
    /// # Errors
    /// The file cannot be opened or locked.
    pub fn try_now(path: &Path) -> Result<Option<Self>, Failure> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed("lock", path, &error)),
        }
    }

    /// Leaves a note for processes that find the lock held. The note may outlive the lock.
    ///
    /// The daemon notes its socket here. So a client whose environment names another one (a cron
    /// job has no `XDG_RUNTIME_DIR`) still finds the daemon of its home.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_note(&self, note: &[u8]) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.write_all_at(note, 0)
    }

    /// Whether the file at `path` is still the one that is locked. If that cannot be found out, it
    /// is.
    pub fn is_at(&self, path: &Path) -> bool {
        let Ok(ours) = self.file.metadata() else { return true };
        match fs::symlink_metadata(path) {
            Ok(found) => (found.dev(), found.ino()) == (ours.dev(), ours.ino()),
            Err(error) => {
                !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            }
        }
    }

    /// The last note left in the lock file `path`, whether or not the lock is held.
    ///
    /// Does not try the lock to find out: that could keep another process from getting it.
    pub fn read_note(path: &Path) -> Option<Vec<u8>> {
        let note = read_regular(path, LONGEST_NOTE, Links::Refused).ok()?;
        (!note.is_empty()).then_some(note)
    }

    /// The id of the process that holds the lock at `path`; `None` if it is not held, or if the
    /// system does not tell, as for a process in another container.
    ///
    /// Asks the kernel, because a process id that was written down may be another process's by now.
    pub fn holder(path: &Path) -> Option<u32> {
        let file = fs::metadata(path).ok()?;
        let locks = fs::read_to_string("/proc/locks").ok()?;
        // Devices are not compared: for a layered file system, the kernel reports another one here.
        let candidates = locks.lines().filter_map(|line| holder_in(line, file.ino()));
        candidates.into_iter().find(|&pid| has_open(pid, (file.dev(), file.ino())))
    }
}

/// The process in a line of `/proc/locks`, if the line is about a held lock on this inode:
/// `1: FLOCK  ADVISORY  WRITE 712 fe:00:1001 0 EOF`. In the line of a waiting process, an arrow
/// precedes the kind.
fn holder_in(line: &str, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace().skip(1);
    let kind = words.next()?;
    let (pid, place) = (words.nth(2)?, words.next()?);
    let held = matches!(kind, "FLOCK" | "POSIX" | "OFDLCK");
    let same = place.rsplit(':').next()?.parse() == Ok(inode);
    pid.parse().ok().filter(|_| held && same)
}

/// Whether a process has the file with this device and inode open.
fn has_open(pid: u32, file: (u64, u64)) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut opened = descriptors.filter_map(|entry| fs::metadata(entry.path()).ok());
    opened.any(|opened| (opened.dev(), opened.ino()) == file)
}

fn open(path: &Path) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    open_regular(path, &mut options, Links::Refused).map_err(|error| failed("open", path, &error))
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::InvalidInput {
        let message = format!("cannot use {} as a lock: {error}", path.display());
        return Failure::new(ErrorCode::Config, message).hint("move it away");
    }
    Failure::new(ErrorCode::Io, format!("cannot {verb} {}: {error}", path.display()))
        .hint("`threadrunner doctor` checks the home and its permissions")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_and_free_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = FileLock::try_now(&path).unwrap().unwrap();
        assert!(FileLock::try_now(&path).unwrap().is_none());
        drop(lock);
        FileLock::wait(&path).unwrap();
    }

    #[test]
    fn a_lock_whose_file_is_gone_or_another_one_is_no_longer_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = FileLock::try_now(&path).unwrap().unwrap();
        assert!(lock.is_at(&path));
        fs::remove_file(&path).unwrap();
        assert!(!lock.is_at(&path));
        let other = FileLock::try_now(&path).unwrap().unwrap();
        assert!(other.is_at(&path) && !lock.is_at(&path));
    }

    #[test]
    fn the_last_note_is_read_by_anybody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(FileLock::read_note(&path), None);
        let lock = FileLock::try_now(&path).unwrap().unwrap();
        assert_eq!(FileLock::read_note(&path), None);
        lock.write_note(b"a long note").unwrap();
        lock.write_note(b"short").unwrap();
        assert_eq!(FileLock::read_note(&path).unwrap(), b"short");
    }

    #[test]
    fn what_a_lock_links_to_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (thesis, path) = (dir.path().join("thesis.txt"), dir.path().join("lock"));
        std::fs::write(&thesis, "long").unwrap();
        std::os::unix::fs::symlink(&thesis, &path).unwrap();
        let failure = FileLock::try_now(&path).unwrap_err();
        assert_eq!(failure.code, ErrorCode::Config);
        assert!(failure.message.contains("a symbolic link"), "{failure}");
        assert_eq!(FileLock::read_note(&path), None);
    }

    #[test]
    fn who_holds_a_lock_is_known_from_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(FileLock::holder(&path), None);
        let lock = FileLock::try_now(&path).unwrap().unwrap();
        assert_eq!(FileLock::holder(&path), Some(std::process::id()));
        drop(lock);
        assert_eq!(FileLock::holder(&path), None);
    }

    #[test]
    fn only_a_lock_that_is_held_on_the_same_file_has_a_holder() {
        let held = "1: FLOCK  ADVISORY  WRITE 712 fe:00:1001 0 EOF";
        assert_eq!(holder_in(held, 1001), Some(712));
        assert_eq!(holder_in(held, 1), None);
        assert_eq!(holder_in("1: -> FLOCK  ADVISORY  WRITE 713 fe:00:1001 0 EOF", 1001), None);
        assert_eq!(holder_in("1: LEASE  ACTIVE    READ  712 fe:00:1001 0 EOF", 1001), None);
        assert_eq!(holder_in("", 1001), None);
    }

    #[test]
    fn a_lock_that_cannot_be_opened_names_its_file() {
        let failure = FileLock::try_now(Path::new("/nowhere/lock")).unwrap_err();
        assert!(failure.message.contains("/nowhere/lock"), "{failure}");
    }
}
