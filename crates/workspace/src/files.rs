//! The files of one job: read without trust, replaced atomically.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::fs::FileSystem;
use crate::layout::{PROMPT_FILE, kind, name_of};
use crate::{Result, WorkspaceError, tree};

/// The most that is read of any one file of a job, and the largest answer, in bytes: 64 MiB, the
/// limit of a frame.
pub const MAX_FILE_BYTES: u64 = threadrunner_core::MAX_FRAME_BYTES as u64;

/// One job's open directory. The handle follows the job wherever it moves.
#[derive(Debug, Clone)]
pub(crate) struct JobDir<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    /// Where the directory was when it was opened, for messages.
    pub(crate) path: PathBuf,
}

/// Why a file of a job could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// Not a readable regular file within the size limit.
    Unfit(String),
    /// The system call failed.
    Io(io::Error),
}

impl JobDir<'_> {
    /// Opens a file of the job, and returns its size; `None` if there is none. Opens only regular
    /// files, and never through a link.
    pub(crate) fn open(&self, name: &str) -> Result<Option<(File, u64)>, ReadError> {
        // NONBLOCK: opening a named pipe would wait for a writer that never comes.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(self.fd, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => {
                return Err(ReadError::Unfit(format!("{name} is a symbolic link")));
            }
            // The submitter's mistake: trying again would not help.
            Err(error @ (Errno::ACCESS | Errno::PERM)) => {
                return Err(ReadError::Unfit(format!("{name} cannot be read: {error}")));
            }
            // From opening a socket, or a device without a driver.
            Err(Errno::NXIO | Errno::NODEV) => {
                return Err(ReadError::Unfit(format!("{name} is a device or a socket")));
            }
            Err(error) => return Err(ReadError::Io(error.into())),
        };
        let stat = rustix::fs::fstat(&file).map_err(|error| ReadError::Io(error.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                Ok(Some((file.into(), u64::try_from(stat.st_size).unwrap_or(0))))
            }
            other => Err(ReadError::Unfit(format!("{name} is {}, not a file", name_of(other)))),
        }
    }

    /// The content of a file of the job; `None` if there is none.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, ReadError> {
        let Some((file, size)) = self.open(name)? else { return Ok(None) };
        let too_large =
            || ReadError::Unfit(format!("{name} is over the limit of {MAX_FILE_BYTES} bytes"));
        if size > MAX_FILE_BYTES {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
        // Also limits a file that grows while it is read.
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(ReadError::Io)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(too_large());
        }
        Ok(Some(bytes))
    }

    /// Like [`JobDir::read`], but `None` also for an unfit file.
    pub(crate) fn read_fit(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self.read(name) {
            Ok(bytes) => Ok(bytes),
            Err(ReadError::Unfit(_)) => Ok(None),
            Err(ReadError::Io(error)) => Err(self.io("read", name, error)),
        }
    }

    /// Whether anything has the prompt's name. An empty file does not count yet: it is created
    /// before it is written.
    pub(crate) fn has_prompt(&self) -> bool {
        match rustix::fs::statat(self.fd, PROMPT_FILE, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat.st_size != 0 || !FileType::from_raw_mode(stat.st_mode).is_file(),
            Err(_) => false,
        }
    }

    /// Whether a file was added to the directory, or removed from it, within the last `time`.
    pub(crate) fn changed_within(&self, time: Duration, now: SystemTime) -> bool {
        let Ok(stat) = rustix::fs::fstat(self.fd) else { return false };
        let Ok(seconds) = u64::try_from(stat.st_mtime) else { return false };
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        // A time in the future comes from a wrong clock.
        now.duration_since(changed).is_ok_and(|age| age <= time)
    }

    /// An error about a file of the job.
    pub(crate) fn io(
        &self,
        verb: &'static str,
        name: &str,
        source: impl Into<io::Error>,
    ) -> WorkspaceError {
        WorkspaceError::io(verb, self.path.join(name), source)
    }

    /// Writes a new file, after removing any of that name.
    pub(crate) fn write(
        &self,
        fs: &dyn FileSystem,
        name: &str,
        bytes: impl AsRef<[u8]>,
    ) -> Result<File> {
        let file = self.create(fs, name)?;
        fs.write(&file, bytes.as_ref()).map_err(|error| self.io("write", name, error))?;
        Ok(file)
    }

    /// Creates an empty file, after removing any of that name.
    pub(crate) fn create(&self, fs: &dyn FileSystem, name: &str) -> Result<File> {
        match fs.create(self.fd, name) {
            Ok(file) => Ok(file),
            // Left by an attempt that a crash cut short.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(fs, name)?;
                fs.create(self.fd, name).map_err(|error| self.io("create", name, error))
            }
            Err(error) => Err(self.io("create", name, error)),
        }
    }

    /// Renames the file `next` of the job to `name`, replacing what is there.
    pub(crate) fn replace(&self, fs: &dyn FileSystem, next: &str, name: &str) -> Result<()> {
        let rename = || fs.rename((self.fd, next), (self.fd, name), true);
        let renamed = match rename() {
            // The submitter put a directory there, which no file can replace.
            Err(_) if self.is_directory(name) => {
                self.remove(fs, name)?;
                rename()
            }
            renamed => renamed,
        };
        renamed.map_err(|error| self.io("replace", name, error))
    }

    /// Removes a file of the job, or whatever else has its name, if it exists.
    pub(crate) fn remove(&self, fs: &dyn FileSystem, name: &str) -> Result<()> {
        let removed = match fs.remove_file(self.fd, OsStr::new(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(_) if self.is_directory(name) => tree::delete(fs, self.fd, OsStr::new(name)),
            removed => removed,
        };
        removed.map_err(|error| self.io("remove", name, error))
    }

    fn is_directory(&self, name: &str) -> bool {
        kind(self.fd, name) == Some(FileType::Directory)
    }
}

/// Wraps an open directory as a job's.
pub(crate) fn job_dir(fd: &impl AsFd, path: PathBuf) -> JobDir<'_> {
    JobDir { fd: fd.as_fd(), path }
}
