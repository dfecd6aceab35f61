//! `retry`: queue a failed or canceled job again, as if it had never begun.

use threadrunner_core::protocol::JobQuery;

use super::{Stop, job};
use crate::connection::Answer;
use crate::context::Context;

pub(super) async fn retry(context: &Context, query: JobQuery, answer: &Answer) -> Result<(), Stop> {
    let id = context.find(query).await?;
    context.archive.retry(id.clone()).await?;
    answer.data(&job::record(context, id).await?).await?;
    Ok(())
}
