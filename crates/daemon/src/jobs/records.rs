//! What is on disk of a job that has ended, as those are told who ask for its answer.

use threadrunner_core::protocol::JobRecord;
use threadrunner_core::{ErrorCode, Failure};

/// Why there is no answer to a job in `failed`.
pub(crate) fn job_failure(record: &JobRecord) -> Failure {
    let cause = record.meta.error.as_ref();
    let said = cause.map_or("no reason was written down", |cause| &cause.message);
    let failure = Failure::new(ErrorCode::JobFailed, format!("job {} failed: {said}", record.job));
    match cause.and_then(|cause| cause.hint.clone()) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
