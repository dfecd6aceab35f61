//! Why a job that is not live has no answer, as told to clients that ask for one.

use threadrunner_core::protocol::JobRecord;
use threadrunner_core::{ErrorCode, Failure, JobState, JobStatus};

/// Explains why a job that is not done has no answer.
pub(crate) fn job_failure(record: &JobRecord) -> Failure {
    if record.state.place() != Some(JobState::Failed) {
        let message = format!("job {} is not done yet: it is {}", record.job, record.state);
        return Failure::new(ErrorCode::WrongState, message)
            .hint(format!("wait for it with `threadrunner wait {}`", record.job));
    }
    let cause = record.meta.error.as_ref();
    let said = cause.map_or("no reason was recorded", |cause| &cause.message);
    let message = match said.strip_prefix("the job was canceled") {
        Some(how) if record.state == JobStatus::Canceled => {
            format!("job {} was canceled{how}", record.job)
        }
        _ => format!("job {} failed: {said}", record.job),
    };
    let failure = Failure::new(ErrorCode::JobFailed, message);
    match cause.and_then(|cause| cause.hint.clone()) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
