//! `undo_session`: undoes the last turn of a conversation.

use threadrunner_core::protocol::{SessionQuery, UndoneTurn, ask};

use super::Stop;
use super::session::find;
use crate::answer::Answer;
use crate::blocking::blocking;
use crate::context::Context;

pub(super) async fn undo_session(
    context: &Context,
    query: SessionQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let among = context.among(query.workspace.as_ref()).await?;
    let name = query.session.clone();
    let (workspace, _) = blocking(move || find(&name, among)).await?;
    let undone = workspace.archive.undo_turn(query.session.clone()).await?;
    if let Some(state) = undone.forgotten {
        context.hub.forget_state(state).await?;
    }
    let turns = u32::try_from(undone.left).unwrap_or(u32::MAX);
    answer
        .data::<ask::UndoSession>(&UndoneTurn { session: query.session, job: undone.turn, turns })
        .await?;
    Ok(())
}
