//! Why a batch cannot begin or ended early, with advice for the command line.

use threadrunner_batch::BatchError;
use threadrunner_core::Failure;

use crate::error::refused_by_system;

/// The failure to report for an error.
pub(super) fn failure(error: BatchError) -> Failure {
    let hint = match &error {
        BatchError::Input { .. } => "`threadrunner batch -` reads standard input",
        BatchError::Writing { .. } => "free some space and run the same command again to resume",
        BatchError::NotAFile(_) => "`-o -` writes to standard output",
        BatchError::OutputIsInput(_) => "write the answers to another file",
        BatchError::InUse(_) => "wait for it, or write to another file",
        BatchError::Foreign { .. } => {
            "a batch would append its answers; name another file with `-o`"
        }
        BatchError::Changed { .. } => {
            "answers may be missing; run the same command again to add them"
        }
        BatchError::Ledger { .. } => "the batch records its jobs there, so that it can be resumed",
        BatchError::Thread(error) => return refused_by_system("start a thread", error),
        BatchError::Reading(_) | BatchError::Output { .. } | BatchError::Failed(_) => {
            return error.into();
        }
    };
    Failure::from(error).hint(hint)
}
