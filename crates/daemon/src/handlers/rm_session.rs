//! `rm_session`: removes a session and its cached state.

use threadrunner_core::protocol::{Removed, RemovedSession, RmSessionQuery, ask};

use super::Stop;
use super::session::find;
use crate::answer::Answer;
use crate::blocking::blocking;
use crate::context::Context;

pub(super) async fn rm_session(
    context: &Context,
    query: RmSessionQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let RmSessionQuery { query, jobs } = query;
    let among = context.among(query.workspace.as_ref()).await?;
    let name = query.session.clone();
    let (workspace, _) = blocking(move || find(&name, among)).await?;
    let left = workspace.archive.remove_session(query.session.clone()).await?;
    context.hub.forget_state(left.state).await?;
    let mut removed =
        RemovedSession { session: query.session, jobs: Vec::new(), failed: Vec::new() };
    if jobs {
        // Keeps jobs that another session also needs.
        let Removed { jobs, failed } = workspace.archive.remove_all(&left.turns).await?;
        (removed.jobs, removed.failed) = (jobs, failed);
        context.hub.removed(workspace.id, removed.jobs.clone()).await?;
    }
    answer.data::<ask::RmSession>(&removed).await?;
    Ok(())
}
