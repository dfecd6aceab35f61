//! `result`: a finished job's answer.

use threadrunner_core::JobState;
use threadrunner_core::protocol::{JobQuery, JobResult};

use super::{Stop, job};
use crate::connection::Answer;
use crate::context::Context;
use crate::jobs::job_failure;

pub(super) async fn result(
    context: &Context,
    query: JobQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let id = context.find(query).await?;
    let name = id.clone();
    let record = job::record(context, id.clone()).await?;
    match record.state {
        JobState::Done => {
            let text = context.read(move |reader| Ok(reader.result(&id)?)).await?;
            let text = String::from_utf8_lossy(&text).into_owned();
            answer.data(&JobResult { record, text }).await?;
        }
        _ => answer.fail(job_failure(&record), Some(name)).await?,
    }
    Ok(())
}
