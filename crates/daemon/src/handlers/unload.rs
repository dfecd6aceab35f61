//! `unload`: ends a model's engine, or all that are idle.

use threadrunner_core::protocol::{ModelQuery, ask};

use super::Stop;
use crate::answer::Answer;
use crate::context::Context;

pub(super) async fn unload(
    context: &Context,
    query: ModelQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let model = match (&query.backend, &query.model, &query.draft) {
        (None, None, None) => None,
        _ => Some(context.model_to_unload(query).await?),
    };
    answer.data::<ask::Unload>(&context.hub.unload(model).await?).await?;
    Ok(())
}
