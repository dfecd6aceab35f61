//! Directories that only their owner may access.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use threadrunner_core::{ErrorCode, Failure};

/// Why a directory cannot be used.
#[derive(Debug)]
pub(crate) enum PrivateDirError {
    Create { path: PathBuf, source: io::Error },
    NotADirectory { path: PathBuf },
    Foreign { path: PathBuf, owner: u32, uid: u32 },
    Open { path: PathBuf, mode: u32, stranger: String },
    Writable { path: PathBuf, mode: u32 },
    Mend { path: PathBuf, source: io::Error },
}

impl From<PrivateDirError> for Failure {
    fn from(error: PrivateDirError) -> Self {
        let elsewhere = "or set THREADRUNNER_HOME to a directory of your own";
        match error {
            PrivateDirError::Create { path, source } => Failure::new(
                ErrorCode::Io,
                format!("cannot create the directory {}: {source}", path.display()),
            )
            .hint(format!("make its parent writable, {elsewhere}")),
            PrivateDirError::NotADirectory { path } => Failure::new(
                ErrorCode::Config,
                format!("{} is in the way: it is not a directory", path.display()),
            )
            .hint(format!("move it away, {elsewhere}")),
            PrivateDirError::Foreign { path, owner, uid } => Failure::new(
                ErrorCode::Config,
                format!("{} belongs to user {owner}, but you are user {uid}", path.display()),
            )
            .hint(format!("run as its owner, {elsewhere}")),
            PrivateDirError::Open { path, mode, stranger } => Failure::new(
                ErrorCode::Config,
                format!(
                    "{} is open to other users (mode {mode:03o}) and holds '{stranger}', which is \
                     not ThreadRunner's",
                    path.display()
                ),
            )
            .hint(format!("run `chmod 700 {}` if that is right, {elsewhere}", path.display())),
            PrivateDirError::Writable { path, mode } => Failure::new(
                ErrorCode::Config,
                format!(
                    "{} leads to a directory that others can write (mode {mode:03o})",
                    path.display()
                ),
            )
            .hint(format!("point it to a directory of your own, {elsewhere}")),
            PrivateDirError::Mend { path, source } => Failure::new(
                ErrorCode::Io,
                format!("cannot close {} to other users: {source}", path.display()),
            )
            .hint(format!("run `chmod 700 {}`, {elsewhere}", path.display())),
        }
    }
}

/// Creates `path` with mode 0700, unless it exists. An existing one must be a directory of this
/// user, and is closed to others if `ours` accepts all names in it. With anything else in it, its
/// mode was set on purpose: it is left alone, and an error if it admits others.
pub(crate) fn ensure_private(
    path: &Path,
    ours: impl Fn(&str) -> bool,
) -> Result<(), PrivateDirError> {
    let metadata = ensure_own(path)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let stranger = fs::read_dir(path)
        .map_err(|source| PrivateDirError::Mend { path: path.into(), source })?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| !ours(name));
    if let Some(stranger) = stranger {
        return Err(PrivateDirError::Open { path: path.into(), mode, stranger });
    }
    fs::set_permissions(path, Permissions::from_mode(0o700))
        .map_err(|source| PrivateDirError::Mend { path: path.into(), source })
}

/// Checks that `path` is a directory of this user, or a link to one, and that nobody else may write
/// to it. Does not change its mode: it is not ours, and others may have to read it.
pub(crate) fn ensure_closed(path: &Path) -> Result<(), PrivateDirError> {
    let mode = ensure_own(path)?.permissions().mode() & 0o7777;
    match mode & 0o022 {
        0 => Ok(()),
        _ => Err(PrivateDirError::Writable { path: path.into(), mode }),
    }
}

/// Creates `path` with mode 0700, unless it exists. An existing one must be a directory of this
/// user.
fn ensure_own(path: &Path) -> Result<Metadata, PrivateDirError> {
    let metadata = ensure_dir(path)?;
    let uid = rustix::process::geteuid().as_raw();
    if metadata.uid() != uid {
        let owner = metadata.uid();
        return Err(PrivateDirError::Foreign { path: path.into(), owner, uid });
    }
    Ok(metadata)
}

/// Creates `path` with mode 0700, unless it exists. An existing one must be a directory.
pub(crate) fn ensure_dir(path: &Path) -> Result<Metadata, PrivateDirError> {
    let failed = |source| PrivateDirError::Create { path: path.into(), source };
    if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(path) {
        // Something that is not a directory: a file, or a dangling link.
        return Err(match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.is_dir() => {
                PrivateDirError::NotADirectory { path: path.into() }
            }
            _ => failed(error),
        });
    }
    fs::metadata(path).map_err(failed)
}
