//! Work that waits for a disk, on a thread of its own.

use threadrunner_core::{ErrorCode, Failure};

/// Runs blocking work on a thread for it.
///
/// # Errors
/// Those of the work, and [`ErrorCode::Internal`] if it panics.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::new(ErrorCode::Internal, error.to_string())),
    }
}
