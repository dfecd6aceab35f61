//! Why a batch cannot begin, or ends early.

use std::io;
use std::path::PathBuf;

use threadrunner_core::{ErrorCode, Failure};
use threadrunner_home::unusable;

/// Why a batch cannot begin, or ends early. What failed for one line alone is in the output
/// instead.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The input cannot be opened.
    #[error("cannot read {}: {error}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Reading the input failed.
    #[error("cannot read the input: {0}")]
    Reading(io::Error),
    /// The output cannot be used.
    #[error("cannot {verb} {}: {error}", path.display())]
    Output {
        /// What failed.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A line cannot be written. What was written before is whole.
    #[error("cannot write {}: {error}", path.display())]
    Writing {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The output is not a file.
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    /// The output is the input.
    #[error("{} is both the input and the output", .0.display())]
    OutputIsInput(PathBuf),
    /// Another batch has locked the output.
    #[error("another batch is writing to {}", .0.display())]
    InUse(PathBuf),
    /// The output has a line that no batch writes.
    #[error("{}: line {line} is not from a batch", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The number of the line.
        line: u64,
    },
    /// The path does not name the output any more, or another program has changed it.
    #[error("{} {how} while the batch was writing to it", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What happened to it.
        how: &'static str,
    },
    /// The ledger cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    Ledger {
        /// Its file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The system refuses a thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// No line can be answered: there is no model, or no daemon.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl From<BatchError> for Failure {
    fn from(error: BatchError) -> Self {
        let said = error.to_string();
        match error {
            BatchError::Input { path, error } => unusable("read", &path, &error),
            BatchError::Output { verb, path, error } => unusable(verb, &path, &error),
            BatchError::Writing { path, error } => unusable("write", &path, &error),
            BatchError::NotAFile(_)
            | BatchError::OutputIsInput(_)
            | BatchError::InUse(_)
            | BatchError::Foreign { .. } => Self::new(ErrorCode::InvalidRequest, said),
            BatchError::Reading(_)
            | BatchError::Changed { .. }
            | BatchError::Ledger { .. }
            | BatchError::Thread(_) => Self::new(ErrorCode::Io, said),
            BatchError::Failed(failure) => failure,
        }
    }
}
