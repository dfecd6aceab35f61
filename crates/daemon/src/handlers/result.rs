//! `result`: a finished job's answer.

use threadrunner_core::JobState;
use threadrunner_core::protocol::{JobQuery, JobResult};

use super::Stop;
use super::job::record;
use crate::connection::Answer;
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
        JobState::Done => {
            let text = job.read(|reader, id| Ok(reader.result(id)?)).await?;
            let text = String::from_utf8_lossy(&text).into_owned();
            answer.data(&JobResult { record, text }).await?;
        }
        _ => answer.fail(job_failure(&record), Some(job.id)).await?,
    }
    Ok(())
}
