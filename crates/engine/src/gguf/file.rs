//! Checks a model file on disk, and names its path in every error.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use threadrunner_core::{ErrorCode, Failure};

use super::{CheckError, Summary, check};

/// Why a path cannot be loaded as a model.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is no such file.
    #[error("no file at {}", .0.display())]
    Missing(PathBuf),
    /// It cannot be opened.
    #[error("cannot open the model file {}: {source}", .path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a pipe or a device.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Its content cannot be a model.
    #[error("cannot load the model file {}: {source}", .path.display())]
    Content {
        /// The path.
        path: PathBuf,
        /// Why.
        source: CheckError,
    },
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        let message = error.to_string();
        match error {
            FileError::Missing(_) => Self::new(ErrorCode::ModelNotFound, message)
                .hint("check the path, or run `threadrunner models` to list what is installed"),
            FileError::NotAFile(_) => {
                Self::new(ErrorCode::ModelLoad, message).hint("name the GGUF file itself")
            }
            FileError::Open { .. } => {
                Self::new(ErrorCode::ModelLoad, message).hint("check its permissions with `ls -l`")
            }
            FileError::Content { .. } => Self::new(ErrorCode::ModelLoad, message)
                .hint("download the file again, or compare its checksum with the publisher's"),
        }
    }
}

/// Checks that `path` is a complete GGUF file.
///
/// # Errors
/// [`FileError`] says why not.
pub fn check_file(path: &Path) -> Result<Summary, FileError> {
    let open = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FileError::Missing(path.to_owned()),
        _ => FileError::Open { path: path.to_owned(), source },
    };
    // Checked before opening: opening a pipe waits for its writer.
    if !path.metadata().map_err(open)?.is_file() {
        return Err(FileError::NotAFile(path.to_owned()));
    }
    let file = File::open(path).map_err(open)?;
    let length = file.metadata().map_err(open)?.len();
    check(BufReader::with_capacity(1 << 16, file), length)
        .map_err(|source| FileError::Content { path: path.to_owned(), source })
}
