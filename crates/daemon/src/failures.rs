//! Failures of system calls, as reported to clients.

use std::io;
use std::path::Path;

use threadrunner_core::{ErrorCode, Failure};

/// The failure for a file on which `verb` failed.
pub(crate) fn io_failure(verb: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(ErrorCode::Io, format!("cannot {verb} {}: {error}", path.display()))
        .hint("`threadrunner doctor` checks the home and its permissions")
}

/// The failure when the system refuses a thread or a descriptor, which is not a bug.
pub(crate) fn refused_by_system(what: &str, error: &io::Error) -> Failure {
    Failure::new(ErrorCode::Io, format!("cannot {what}: {error}"))
}
