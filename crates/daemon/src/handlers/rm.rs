//! `rm`: removes an ended job and its files.

use threadrunner_core::protocol::{JobQuery, Removed, ask};

use super::Stop;
use crate::answer::Answer;
use crate::context::Context;

pub(super) async fn rm(context: &Context, query: JobQuery, answer: &Answer) -> Result<(), Stop> {
    let job = context.find_stored(query).await?;
    job.workspace.archive.remove(job.id.clone()).await?;
    context.hub.removed(job.workspace.id, vec![job.id.clone()]).await?;
    answer.data::<ask::Rm>(&Removed { jobs: vec![job.id] }).await?;
    Ok(())
}
