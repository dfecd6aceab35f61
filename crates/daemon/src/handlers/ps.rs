//! `ps`: lists loaded models and running requests.

use threadrunner_core::protocol::ask;

use super::Stop;
use crate::answer::Answer;
use crate::context::Context;

pub(super) async fn ps(context: &Context, answer: &Answer) -> Result<(), Stop> {
    answer.data::<ask::Ps>(&context.hub.ps().await?).await?;
    Ok(())
}
