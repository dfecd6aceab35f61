//! `prune`: remove jobs that ended long ago.

use std::time::{Duration, SystemTime};

use threadrunner_core::protocol::{PruneQuery, Removed};
use threadrunner_core::{ErrorCode, Failure};
use threadrunner_workspace::Retention;

use super::Stop;
use crate::connection::Answer;
use crate::context::Context;

pub(super) async fn prune(
    context: &Context,
    query: PruneQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    context.workspace_known(query.workspace.as_deref())?;
    let max_age = Duration::try_from_secs_f64(query.older_than_s).map_err(|_| {
        Failure::new(
            ErrorCode::InvalidRequest,
            format!("older_than_s is {}, but must be a time from 0", query.older_than_s),
        )
    })?;
    let retention = Retention {
        max_age: Some(max_age),
        keep_failed: query.keep_failed,
        ..Retention::default()
    };
    let old =
        context.read(move |reader| Ok(reader.not_kept(&retention, SystemTime::now())?)).await?;
    let jobs = context.archive.remove_all(&old).await?;
    context.hub.removed(jobs.clone()).await?;
    answer.data(&Removed { jobs }).await?;
    Ok(())
}
