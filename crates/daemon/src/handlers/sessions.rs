//! `sessions`: lists the conversations, the most recent first.

use threadrunner_core::protocol::{SessionsQuery, ask};
use threadrunner_workspace::list_sessions;

use super::Stop;
use crate::answer::Answer;
use crate::blocking::blocking;
use crate::context::Context;

/// The maximum number of records per answer.
const MOST: usize = 10_000;
/// Their maximum size in bytes. A session's instructions may be long.
const MOST_BYTES: usize = 16 << 20;
/// The usual upper bound on a record's size in bytes.
const RECORD_BYTES: usize = 1 << 10;

pub(super) async fn sessions(
    context: &Context,
    query: SessionsQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let among = context.among(query.workspace.as_ref()).await?;
    let limit = query.limit.map_or(MOST, |limit| (limit as usize).min(MOST));
    let room = answer.room((limit * RECORD_BYTES).min(2 * MOST_BYTES)).await?;
    let list = move || {
        let among = among.iter().map(|served| (&served.settings.name, &served.reader));
        Ok(list_sessions(among, limit, MOST_BYTES)?)
    };
    answer.data_in::<ask::Sessions>(blocking(list).await?, room).await?;
    Ok(())
}
