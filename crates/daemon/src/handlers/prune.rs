//! `prune`: removes jobs that ended long ago.

use std::time::{Duration, SystemTime};

use threadrunner_core::protocol::{PruneQuery, Removed, ask};
use threadrunner_core::{ErrorCode, Failure};
use threadrunner_workspace::Retention;

use super::Stop;
use crate::answer::Answer;
use crate::context::Context;

pub(super) async fn prune(
    context: &Context,
    query: PruneQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let among = context.among(query.workspace.as_ref()).await?;
    let max_age = Duration::try_from_secs_f64(query.older_than_s).map_err(|_| {
        Failure::new(
            ErrorCode::InvalidRequest,
            format!("older_than_s takes a number of seconds from 0, not {}", query.older_than_s),
        )
    })?;
    let retention = Retention {
        max_age: Some(max_age),
        keep_failed: query.keep_failed,
        ..Retention::default()
    };
    let mut removed = Removed::default();
    for workspace in among {
        let retention = retention.clone();
        let old = workspace
            .read(move |reader| Ok(reader.not_kept(&retention, SystemTime::now())?))
            .await?;
        let mut here = workspace.archive.remove_all(&old.jobs).await?;
        context.hub.removed(workspace.id, here.jobs.clone()).await?;
        removed.jobs.append(&mut here.jobs);
        removed.failed.append(&mut here.failed);
    }
    answer.data::<ask::Prune>(&removed).await?;
    Ok(())
}
