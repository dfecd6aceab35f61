//! Disks that are like the real one except for what a test is about.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;

use threadrunner_workspace::fs::{Disk, FileSystem};

/// What a disk does differently.
pub(crate) trait Twist: Debug + Send + Sync {
    /// Runs before each change of a directory. Its error fails the change.
    fn change(&self) -> io::Result<()> {
        Ok(())
    }

    /// The same, before a directory is created.
    fn make_dir(&self) -> io::Result<()> {
        self.change()
    }

    /// Writes after what was written before.
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        Disk.write(file, bytes)
    }

    /// Writes over what is there.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change()?;
        Disk.write_at(file, bytes, offset)
    }

    fn mount(&self, dir: BorrowedFd<'_>) -> Option<String> {
        Disk.mount(dir)
    }

    fn unwritten_bytes(&self) -> Option<u64>;
    fn sync(&self) -> io::Result<()>;
    fn sync_all(&self) -> io::Result<()>;

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }
}

/// The disk, with a twist.
#[derive(Debug, Default)]
pub(crate) struct Twisted<T>(pub(crate) T);

impl<T> Deref for Twisted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Twist> FileSystem for Twisted<T> {
    fn make_dir(&self, dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        self.0.make_dir()?;
        Disk.make_dir(dir, name)
    }

    fn create(&self, dir: BorrowedFd<'_>, name: &str) -> io::Result<File> {
        self.0.change()?;
        Disk.create(dir, name)
    }

    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        self.0.write(file, bytes)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(file, bytes, offset)
    }

    fn rename(
        &self,
        from: (BorrowedFd<'_>, &str),
        to: (BorrowedFd<'_>, &str),
        replace: bool,
    ) -> io::Result<()> {
        self.0.change()?;
        Disk.rename(from, to, replace)
    }

    fn remove_file(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        self.0.change()?;
        Disk.remove_file(dir, name)
    }

    fn remove_dir(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        self.0.change()?;
        Disk.remove_dir(dir, name)
    }

    fn unwritten_bytes(&self) -> Option<u64> {
        self.0.unwritten_bytes()
    }

    fn mount(&self, dir: BorrowedFd<'_>) -> Option<String> {
        self.0.mount(dir)
    }

    fn start_sync(&self, _file: BorrowedFd<'_>) {}

    fn sync(&self, _file: BorrowedFd<'_>) -> io::Result<()> {
        self.0.sync()
    }

    fn sync_data(&self, _file: &File) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self, _dir: BorrowedFd<'_>) -> io::Result<()> {
        self.0.sync_all()
    }
}
