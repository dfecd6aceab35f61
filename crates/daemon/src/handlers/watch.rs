//! `watch`: reports every change of a job's state.

use threadrunner_core::protocol::{Progress, ReplyBody, WatchQuery};
use threadrunner_core::{ErrorCode, Failure};
use tokio::sync::broadcast::error::RecvError;

use super::Stop;
use crate::answer::Answer;
use crate::context::Context;
use crate::jobs::Change;

pub(super) async fn watch(
    context: &Context,
    query: WatchQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let only = match query.workspace.as_ref() {
        Some(name) => context.among(Some(name)).await?.first().map(|workspace| workspace.id),
        None => None,
    };
    let (live, mut changes) = context.hub.changes().await?;
    answer.send(vec![ReplyBody::Event(Progress::Watching { live })]).await?;
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            () = answer.gone() => return Err(Stop::Gone),
        };
        let event = match change {
            Ok(change) if only.is_some_and(|only| only != change.workspace) => continue,
            Ok(Change { id: job, state, live, .. }) => Progress::Changed { job, state, live },
            Err(RecvError::Lagged(count)) => Progress::Missed { count },
            Err(RecvError::Closed) => {
                return Err(Failure::new(ErrorCode::ShuttingDown, "the daemon is ending").into());
            }
        };
        answer.send(vec![ReplyBody::Event(event)]).await?;
    }
}
