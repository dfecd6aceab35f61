//! The seam between the workspace and the disk: every operation that changes something.
//!
//! All changes go through [`FileSystem`], so that a test can fail the nth one, stop everything
//! there, or record what a power failure would lose. [`Disk`] is the real one. Reading needs no
//! seam.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// The changes that the workspace makes to a disk, relative to open directories.
pub trait FileSystem: fmt::Debug + Send + Sync {
    /// Creates a directory that only its owner can access.
    ///
    /// # Errors
    /// As `mkdirat`.
    fn make_dir(&self, dir: BorrowedFd<'_>, name: &str) -> io::Result<()>;

    /// Creates an empty file that only its owner can access. Never opens an existing one.
    ///
    /// # Errors
    /// As `openat`.
    fn create(&self, dir: BorrowedFd<'_>, name: &str) -> io::Result<File>;

    /// Writes all of `bytes` after what was written before.
    ///
    /// # Errors
    /// As `write`.
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, over what is there.
    ///
    /// # Errors
    /// As `pwrite`.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Renames a file or directory. With `replace`, replaces a file of the new name atomically;
    /// without, anything of that name is an error.
    ///
    /// # Errors
    /// As `renameat2`.
    fn rename(
        &self,
        from: (BorrowedFd<'_>, &str),
        to: (BorrowedFd<'_>, &str),
        replace: bool,
    ) -> io::Result<()>;

    /// Removes a file, or a link but not its target.
    ///
    /// # Errors
    /// As `unlinkat`.
    fn remove_file(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As `unlinkat`.
    fn remove_dir(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()>;

    /// Gives the owner full access (mode 0700) to a directory, to delete what is in it.
    ///
    /// # Errors
    /// As `fchmodat`.
    fn open_up(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())?)
    }

    /// How much data, of all programs, is not on the disk yet, in bytes: what
    /// [`FileSystem::sync_all`] may have to wait for. `None` if unknown.
    fn unwritten_bytes(&self) -> Option<u64>;

    /// Identifies the mount that unwritten data depends on: as long as the file system of `dir`
    /// keeps this identity, everything written can be read, synced or not. `None` if unknown.
    fn mount(&self, dir: BorrowedFd<'_>) -> Option<String>;

    /// Starts writing a file's data to the disk, without waiting.
    fn start_sync(&self, file: BorrowedFd<'_>);

    /// Waits until a file, or the entries of a directory, are on the disk.
    ///
    /// # Errors
    /// As `fsync`.
    fn sync(&self, file: BorrowedFd<'_>) -> io::Result<()>;

    /// Waits until a file's data is on the disk, with the metadata needed to read it.
    ///
    /// # Errors
    /// As `fdatasync`.
    fn sync_data(&self, file: &File) -> io::Result<()>;

    /// Waits until everything on the file system of `dir` is on the disk.
    ///
    /// # Errors
    /// As `syncfs`.
    fn sync_all(&self, dir: BorrowedFd<'_>) -> io::Result<()>;
}

/// The real disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl FileSystem for Disk {
    fn make_dir(&self, dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(dir, name, Mode::RWXU)?)
    }

    fn create(&self, dir: BorrowedFd<'_>, name: &str) -> io::Result<File> {
        // O_EXCL also refuses to follow a link of that name.
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn rename(
        &self,
        from: (BorrowedFd<'_>, &str),
        to: (BorrowedFd<'_>, &str),
        replace: bool,
    ) -> io::Result<()> {
        if replace {
            return Ok(rustix::fs::renameat(from.0, from.1, to.0, to.1)?);
        }
        match rename_no_replace(from, to) {
            // Some network and FUSE file systems do not support this. Another program could create
            // the target between the check and the rename, but rename(2) does not replace a
            // directory that is not empty, and every job holds its prompt.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                match rustix::fs::statat(to.0, to.1, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => Ok(rustix::fs::renameat(from.0, from.1, to.0, to.1)?),
                    Err(error) => Err(error.into()),
                    Ok(_) => Err(Errno::EXIST.into()),
                }
            }
            other => Ok(other?),
        }
    }

    fn remove_file(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?)
    }

    fn remove_dir(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
    }

    fn unwritten_bytes(&self) -> Option<u64> {
        // Counts all disks of the machine, so never too little. The line is among the first few.
        let mut buffer = [0; 1024];
        let length = File::open("/proc/meminfo").ok()?.read(&mut buffer).ok()?;
        let text = std::str::from_utf8(&buffer[..length]).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Dirty:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    }

    #[cfg(target_os = "linux")]
    fn mount(&self, dir: BorrowedFd<'_>) -> Option<String> {
        use rustix::fs::StatxFlags;
        // `STATX_MNT_ID_UNIQUE` of statx(2): like `STATX_MNT_ID`, but never reused.
        const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
        let random = |what| std::fs::read_to_string(format!("/proc/sys/kernel/random/{what}"));
        let stat = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, UNIQUE).ok();
        let mount = match stat.filter(|stat| stat.stx_mask & UNIQUE.bits() != 0) {
            Some(stat) => stat.stx_mnt_id.to_string(),
            // Before Linux 6.8. A value that never repeats is on the safe side.
            None => random("uuid").ok()?,
        };
        Some(format!("{}/{}", random("boot_id").ok()?.trim(), mount.trim()))
    }

    #[cfg(not(target_os = "linux"))]
    fn mount(&self, _dir: BorrowedFd<'_>) -> Option<String> {
        None
    }

    #[cfg(target_os = "linux")]
    fn start_sync(&self, file: BorrowedFd<'_>) {
        // Linux takes this advice as a cue to start writing the file's dirty pages. It is only
        // advice: `sync` waits for all of them and reports errors.
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    }

    #[cfg(not(target_os = "linux"))]
    fn start_sync(&self, _file: BorrowedFd<'_>) {}

    fn sync(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        // Not fdatasync: it saves nothing for a directory or a newly created file.
        Ok(rustix::fs::fsync(file)?)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn sync_all(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        Ok(rustix::fs::syncfs(dir)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn sync_all(&self, _dir: BorrowedFd<'_>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn rename_no_replace(
    from: (BorrowedFd<'_>, &str),
    to: (BorrowedFd<'_>, &str),
) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn rename_no_replace(
    _from: (BorrowedFd<'_>, &str),
    _to: (BorrowedFd<'_>, &str),
) -> rustix::io::Result<()> {
    Err(Errno::NOSYS)
}
