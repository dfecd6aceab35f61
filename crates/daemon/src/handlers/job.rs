//! `job`: sends a job's record at once.

use std::collections::HashMap;

use threadrunner_core::protocol::{JobQuery, JobRecord, ask};
use threadrunner_core::{Failure, JobId, JobStatus};

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
    let record = match record.state {
        JobStatus::Running => with_model(record, &context.hub.running_models().await?),
        _ => record,
    };
    let workspace = Some(job.workspace.settings.name.clone());
    Ok(JobRecord { position, waits_for, workspace, ..record })
}

/// The record, with the model of a running job.
pub(super) fn with_model(mut record: JobRecord, models: &HashMap<JobId, String>) -> JobRecord {
    if record.state == JobStatus::Running && record.meta.model.is_none() {
        record.meta.model = models.get(&record.job).cloned();
    }
    record
}
