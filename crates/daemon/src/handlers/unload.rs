//! `unload`: ends a model's engine, or all that are idle.

use threadrunner_core::protocol::{ModelQuery, ask};

use super::Stop;
use crate::answer::Answer;
use crate::context::Context;
use crate::jobs::ToUnload;

pub(super) async fn unload(
    context: &Context,
    query: ModelQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let which = match (&query.model, &query.draft) {
        (None, None) => ToUnload::Idle(query.backend),
        _ => ToUnload::Model(context.model_to_unload(query).await?),
    };
    answer.data::<ask::Unload>(&context.hub.unload(which).await?).await?;
    Ok(())
}
