//! Checks whether the socket can be in `XDG_RUNTIME_DIR`.
//!
//! After `su` and `sudo` it is another user's; a logout removes it; and if it names `/tmp`, anybody
//! may have put a link there.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags};
use threadrunner_core::{ErrorCode, Failure};

/// ThreadRunner's own directory in the runtime directory.
pub(crate) const OWN_DIR: &str = "threadrunner";

/// A runtime directory that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusedRuntimeDir {
    /// What `XDG_RUNTIME_DIR` names.
    pub path: PathBuf,
    /// Why it is not used, in words that follow its path.
    pub why: String,
}

/// Why the socket cannot be in the runtime directory `dir`; `None` if it can.
pub(crate) fn unfit(dir: &Path) -> Option<String> {
    let uid = rustix::process::geteuid().as_raw();
    let found = match fs::metadata(dir) {
        Ok(found) => found,
        Err(error) => return Some(format!("cannot be accessed: {error}")),
    };
    if !found.is_dir() {
        return Some("is not a directory".to_owned());
    }
    if found.uid() != uid {
        return Some(format!("belongs to user {}, but you are user {uid}", found.uid()));
    }
    if found.mode() & 0o022 != 0 {
        return Some(format!("can be written by others (mode {:03o})", found.mode() & 0o777));
    }
    if let Err(error) = rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK) {
        return Some(format!("cannot be written: {error}"));
    }
    let own = fs::symlink_metadata(dir.join(OWN_DIR)).ok()?;
    if own.is_symlink() {
        return Some(format!("holds a link called {OWN_DIR}, which is not followed"));
    }
    if !own.is_dir() {
        return Some(format!("holds something called {OWN_DIR} that is not a directory"));
    }
    (own.uid() != uid).then(|| format!("holds a directory {OWN_DIR} of user {}", own.uid()))
}

/// Creates the socket's directory in the runtime directory, which exists, and closes it to others.
/// Never follows a link, not even one that was put there just now.
pub(crate) fn ensure(dir: &Path) -> Result<(), Failure> {
    let failed = |what: &str| {
        let message = format!("{} {what}", dir.display());
        Failure::new(ErrorCode::Config, message)
            .hint("unset XDG_RUNTIME_DIR, or set THREADRUNNER_SOCKET to a path of your own")
    };
    let io = |error: &dyn std::fmt::Display| failed(&format!("cannot be used: {error}"));
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(io(&error)),
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = rustix::fs::open(dir, flags, Mode::empty()).map_err(|error| io(&error))?;
    let found = rustix::fs::fstat(&open).map_err(|error| io(&error))?;
    if found.st_uid != rustix::process::geteuid().as_raw() {
        return Err(failed(&format!("belongs to user {}", found.st_uid)));
    }
    if Mode::from_raw_mode(found.st_mode).intersects(Mode::RWXG | Mode::RWXO) {
        rustix::fs::fchmod(&open, Mode::RWXU).map_err(|error| io(&error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_directory_of_ones_own_is_fit() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(unfit(dir.path()), None);
        let own = dir.path().join(OWN_DIR);
        ensure(&own).unwrap();
        assert_eq!(mode(&own), 0o700);
        fs::set_permissions(&own, Permissions::from_mode(0o755)).unwrap();
        ensure(&own).unwrap();
        assert_eq!(mode(&own), 0o700);
        assert_eq!(unfit(dir.path()), None);
    }

    #[test]
    fn what_is_missing_or_open_to_others_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(unfit(&dir.path().join("gone")).unwrap().contains("accessed"));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(unfit(&file).unwrap(), "is not a directory");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o770)).unwrap();
        assert!(unfit(dir.path()).unwrap().contains("mode 770"));
    }

    #[test]
    fn a_link_is_neither_followed_nor_what_it_leads_to_closed() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, own) = (dir.path().join("shared"), dir.path().join(OWN_DIR));
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
        symlink(&shared, &own).unwrap();
        assert!(unfit(dir.path()).unwrap().contains("a link"));
        assert!(ensure(&own).unwrap_err().hint.unwrap().contains("XDG_RUNTIME_DIR"));
        assert_eq!(mode(&shared), 0o755);
    }
}
