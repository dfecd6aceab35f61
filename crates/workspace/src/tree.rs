//! Deletes directory trees that other programs made: nested to any depth, and with directories
//! closed to their owner.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use threadrunner_core::JobState;

use crate::fs::FileSystem;
use crate::layout::{Layout, kind, open_dir};
use crate::{Result, WorkspaceError};

/// A directory that is being emptied, and its parent.
struct Above {
    /// The directory's name in its parent.
    name: OsString,
    /// The parent's identity.
    parent: Identity,
}

/// The device and inode numbers that identify a directory.
type Identity = (u64, u64);

/// Deletes a directory in `input/writing` with all its content, without following links.
pub(crate) fn delete_writing(layout: &Layout, fs: &dyn FileSystem, name: &str) -> Result<()> {
    delete(fs, layout.dir(JobState::Writing), OsStr::new(name)).map_err(|error| {
        WorkspaceError::io("delete", layout.path(JobState::Writing).join(name), error)
    })
}

/// Deletes `name` in `top` with all its content, without following links. Holds two directories
/// open at a time, at any depth.
///
/// # Errors
/// Stops at the first entry that cannot be deleted.
pub(crate) fn delete(fs: &dyn FileSystem, top: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let Some(mut here) = enter(fs, top, name)? else { return Ok(()) };
    let mut above: Vec<Above> = Vec::new();
    loop {
        if let Some(name) = next_directory(fs, &here)? {
            if let Some(below) = enter(fs, here.as_fd(), &name)? {
                above.push(Above { name, parent: identity(&here)? });
                here = below;
            }
            continue;
        }
        let Some(Above { name, parent }) = above.pop() else { break };
        here = open_dir(here.as_fd(), "..")?;
        if identity(&here)? != parent {
            return Err(io::Error::other("another program is moving directories in it"));
        }
        fs.remove_dir(here.as_fd(), &name)?;
    }
    drop(here);
    fs.remove_dir(top, name)
}

/// Opens a directory to empty it; `None` if it is gone, or was not a directory and is now removed.
fn enter(fs: &dyn FileSystem, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    let dir = match open_dir(parent, name) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            fs.remove_file(parent, name)?;
            return Ok(None);
        }
        // Its mode denies its owner access.
        Err(Errno::ACCESS) => {
            fs.open_up(parent, name)?;
            open_dir(parent, name)?
        }
        Err(error) => return Err(error.into()),
    };
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&dir)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        fs.open_up(parent, name)?;
    }
    Ok(Some(dir))
}

/// Removes the entries before the first directory, and returns that one's name; `None` when nothing
/// is left.
fn next_directory(fs: &dyn FileSystem, dir: &OwnedFd) -> io::Result<Option<OsString>> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let found = match entry.file_type() {
            FileType::Unknown => kind(dir.as_fd(), name),
            known => Some(known),
        };
        match found {
            Some(FileType::Directory) => return Ok(Some(name.to_owned())),
            Some(_) => fs.remove_file(dir.as_fd(), name)?,
            None => {}
        }
    }
    Ok(None)
}

#[expect(clippy::useless_conversion, reason = "the numbers' types differ between systems")]
fn identity(dir: &OwnedFd) -> io::Result<Identity> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((u64::from(stat.st_dev), u64::from(stat.st_ino)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Disk;
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    /// Nested directories: deeper than a path can express, and than recursion could follow.
    fn nest(top: &Path, depth: usize) {
        let mut dir: OwnedFd = File::open(top).unwrap().into();
        for _ in 0..depth {
            Disk.make_dir(dir.as_fd(), "d").unwrap();
            dir = open_dir(dir.as_fd(), "d").unwrap();
            Disk.create(dir.as_fd(), "file").unwrap();
        }
    }

    fn delete_in(top: &Path, name: &str) -> io::Result<()> {
        let top = File::open(top).unwrap();
        delete(&Disk, top.as_fd(), OsStr::new(name))
    }

    #[test]
    fn a_deep_tree_goes_and_what_links_lead_to_stays() {
        let temp = tempfile::tempdir().unwrap();
        let (tree, other) = (temp.path().join("tree"), temp.path().join("other"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("kept"), "").unwrap();
        symlink(&other, tree.join("link")).unwrap();
        symlink(&other, tree.join("a/b/link")).unwrap();
        fs::write(tree.join("a").join(OsStr::from_bytes(b"\xff")), "").unwrap();
        nest(&tree, 3000);
        delete_in(temp.path(), "tree").unwrap();
        assert!(!tree.exists() && other.join("kept").exists());
        delete_in(temp.path(), "tree").unwrap();
    }

    #[test]
    fn a_closed_directory_goes_too() {
        let temp = tempfile::tempdir().unwrap();
        for mode in [0o000, 0o500, 0o300] {
            let closed = temp.path().join("tree/closed");
            fs::create_dir_all(closed.join("inside")).unwrap();
            fs::write(closed.join("file"), "").unwrap();
            fs::set_permissions(&closed, Permissions::from_mode(mode)).unwrap();
            delete_in(temp.path(), "tree").unwrap();
            assert!(!temp.path().join("tree").exists(), "{mode:o}");
        }
    }
}
