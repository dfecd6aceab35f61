//! `rm`: removes an ended job and its files.

use threadrunner_core::protocol::{JobQuery, ask};

use super::Stop;
use crate::answer::Answer;
use crate::context::Context;

pub(super) async fn rm(context: &Context, query: JobQuery, answer: &Answer) -> Result<(), Stop> {
    let job = context.find_stored(query).await?;
    let mut removed = job.workspace.archive.remove(job.id).await?;
    context.hub.removed(job.workspace.id, removed.jobs.clone()).await?;
    if let Some(failed) = removed.failed.pop() {
        return Err(failed.error.into());
    }
    answer.data::<ask::Rm>(&removed).await?;
    Ok(())
}
