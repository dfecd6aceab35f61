//! `result`: sends a finished job's answer.

use threadrunner_core::protocol::{JobQuery, JobResult, ask};
use threadrunner_core::{JobStatus, MAX_FRAME_BYTES};

use super::Stop;
use super::job::record;
use crate::answer::Answer;
use crate::context::Context;
use crate::jobs::job_failure;

pub(super) async fn result(
    context: &Context,
    query: JobQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let job = context.find_stored(query).await?;
    let record = record(context, &job).await?;
    match record.state {
        JobStatus::Done => {
            let bytes = job.read(|reader, id| Ok(reader.answer_bytes(id)?)).await?;
            let room = answer.room(with_frame(bytes)).await?;
            let (text_bytes, output) = job.read(|reader, id| Ok(reader.answer(id)?)).await?;
            let result = JobResult { record, text: text(text_bytes), output };
            answer.data_in::<ask::Result>(result, room).await?;
        }
        _ => answer.fail(job_failure(&record), Some(job.id)).await?,
    }
    Ok(())
}

/// The memory for an answer of `bytes` bytes and its frame, in which JSON may escape a byte with
/// six.
pub(super) fn with_frame(bytes: u64) -> usize {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(MAX_FRAME_BYTES);
    bytes + bytes.saturating_mul(6).min(MAX_FRAME_BYTES)
}

/// Converts bytes to text. Copies them only if they are not UTF-8.
pub(super) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
