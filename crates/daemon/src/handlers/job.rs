//! `job`: a job's record, at once.

use threadrunner_core::protocol::{JobQuery, JobRecord};
use threadrunner_core::{Failure, JobId};

use super::Stop;
use crate::connection::Answer;
use crate::context::Context;

pub(super) async fn job(context: &Context, query: JobQuery, answer: &Answer) -> Result<(), Stop> {
    let id = context.find(query).await?;
    answer.data(&record(context, id).await?).await?;
    Ok(())
}

/// What is known of one job.
pub(super) async fn record(context: &Context, id: JobId) -> Result<JobRecord, Failure> {
    let position = context.hub.position(id.clone()).await?;
    let waits_for = context.hub.waits_for(vec![id.clone()]).await?.pop().unwrap_or_default();
    let record = context.read(move |reader| Ok(reader.record(&id)?)).await?;
    Ok(JobRecord { position, waits_for, ..record })
}
