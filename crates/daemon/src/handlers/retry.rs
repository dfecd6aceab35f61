//! `retry`: queues a failed or canceled job again, as if it had never run.

use threadrunner_core::protocol::{JobQuery, ask};

use super::Stop;
use super::job::record;
use crate::answer::Answer;
use crate::context::Context;

pub(super) async fn retry(context: &Context, query: JobQuery, answer: &Answer) -> Result<(), Stop> {
    let job = context.find_stored(query).await?;
    job.workspace.archive.retry(job.id.clone()).await?;
    answer.data::<ask::Retry>(&record(context, &job).await?).await?;
    Ok(())
}
