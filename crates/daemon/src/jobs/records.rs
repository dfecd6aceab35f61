//! What is on disk of a job that is not live, as those are told who ask for its answer.

use threadrunner_core::protocol::JobRecord;
use threadrunner_core::{ErrorCode, Failure, JobState};

/// Why there is no answer to a job that is not done.
pub(crate) fn job_failure(record: &JobRecord) -> Failure {
    if record.state.place() != Some(JobState::Failed) {
        let message = format!("job {} is not done yet: it is {}", record.job, record.state);
        return Failure::new(ErrorCode::WrongState, message)
            .hint(format!("wait for it with `threadrunner wait {}`", record.job));
    }
    let cause = record.meta.error.as_ref();
    let said = cause.map_or("no reason was written down", |cause| &cause.message);
    let failure = Failure::new(ErrorCode::JobFailed, format!("job {} failed: {said}", record.job));
    match cause.and_then(|cause| cause.hint.clone()) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
