//! Failures of the system, as they are told.

use std::io;
use std::path::Path;

use threadrunner_core::{ErrorCode, Failure};

/// A file cannot be used: `verb` says for what.
pub(crate) fn io_failure(verb: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(ErrorCode::Io, format!("cannot {verb} {}: {error}", path.display()))
        .hint("`threadrunner doctor` checks the home and its permissions")
}

/// The system refuses a thread or a descriptor, which is no bug.
pub(crate) fn refused_by_system(what: &str, error: &io::Error) -> Failure {
    Failure::new(ErrorCode::Io, format!("cannot {what}: {error}"))
}
