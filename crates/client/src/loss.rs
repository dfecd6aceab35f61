//! Failures after which another daemon may carry on.

use threadrunner_core::{ErrorCode, Failure};

/// Whether the daemon or the connection to it went away. Its jobs are on disk, and the next daemon
/// resumes them, so a client can ask again.
pub fn is_loss(failure: &Failure) -> bool {
    matches!(failure.code, ErrorCode::ConnectionLost | ErrorCode::ShuttingDown)
}
