//! `load`: loads a model before it is needed, and reports the progress.

use threadrunner_core::ErrorCode;
use threadrunner_core::Failure;
use threadrunner_core::protocol::{LoadQuery, Progress, ReplyBody, ask};

use super::Stop;
use crate::answer::Answer;
use crate::context::Context;
use crate::engine::LoadState;

pub(super) async fn load(context: &Context, query: LoadQuery, answer: &Answer) -> Result<(), Stop> {
    let found = context.model(query.query).await?;
    let model = found.model.clone();
    let mut view = context.hub.load(found, query.pin, query.keep_alive).await?;
    loop {
        let seen = view.borrow_and_update().clone();
        match seen.state {
            LoadState::Ready => break,
            LoadState::Failed(failure) => return Err(failure.into()),
            LoadState::Loading(fraction) => {
                let event = Progress::Loading { model: seen.name, fraction };
                answer.send(vec![ReplyBody::Event(event)]).await?;
            }
        }
        tokio::select! {
            changed = view.changed() => if changed.is_err() {
                let failure = Failure::new(ErrorCode::EngineDied, "the engine was stopped");
                return Err(failure.into());
            },
            () = answer.gone() => return Err(Stop::Gone),
        }
    }
    let list = context.hub.ps().await?;
    let loaded = list.models.into_iter().find(|loaded| loaded.model == model);
    match loaded {
        Some(loaded) => answer.data::<ask::Load>(&loaded).await?,
        None => {
            let failure = Failure::new(ErrorCode::EngineDied, "the engine exited after loading");
            return Err(failure.into());
        }
    }
    Ok(())
}
