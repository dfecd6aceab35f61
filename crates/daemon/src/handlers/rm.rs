//! `rm`: remove a job that has ended, with all its files.

use threadrunner_core::protocol::{JobQuery, Removed};

use super::Stop;
use crate::connection::Answer;
use crate::context::Context;

pub(super) async fn rm(context: &Context, query: JobQuery, answer: &Answer) -> Result<(), Stop> {
    let id = context.find(query).await?;
    context.archive.remove(id.clone()).await?;
    context.hub.removed(vec![id.clone()]).await?;
    answer.data(&Removed { jobs: vec![id] }).await?;
    Ok(())
}
