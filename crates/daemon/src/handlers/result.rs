//! `result`: a finished job's answer.

use threadrunner_core::protocol::{JobQuery, JobResult};
use threadrunner_core::{ErrorCode, Failure, JobState};

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
        JobState::Failed => answer.fail(job_failure(&record), Some(name)).await?,
        state => {
            let failure = Failure::new(
                ErrorCode::WrongState,
                format!("job {name} is not done yet: it is {state}"),
            )
            .hint(format!("wait for it with `threadrunner wait {name}`"));
            answer.fail(failure, Some(name)).await?;
        }
    }
    Ok(())
}
