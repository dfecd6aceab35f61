//! `job`: sends a job's record at once.

use threadrunner_core::Failure;
use threadrunner_core::protocol::{JobQuery, JobRecord, ask};

use super::Stop;
use crate::answer::Answer;
use crate::context::Context;
use crate::workspaces::Located;

pub(super) async fn job(context: &Context, query: JobQuery, answer: &Answer) -> Result<(), Stop> {
    let job = context.find_stored(query).await?;
    answer.data::<ask::Job>(&record(context, &job).await?).await?;
    Ok(())
}

/// Collects what is known of a job.
pub(super) async fn record(context: &Context, job: &Located) -> Result<JobRecord, Failure> {
    let position = context.hub.position(job).await?;
    let waits_for = context.hub.waits_for(vec![job.id.clone()]).await?.pop().unwrap_or_default();
    let record = job.read(|reader, id| Ok(reader.record(id)?)).await?;
    let workspace = Some(job.workspace.settings.name.clone());
    Ok(JobRecord { position, waits_for, workspace, ..record })
}
