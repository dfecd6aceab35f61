//! `prune`: remove jobs that ended long ago.

use std::time::Duration;

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
    let among = context.workspaces.among(query.workspace.as_deref())?;
    let max_age = Duration::try_from_secs_f64(query.older_than_s).map_err(|_| {
        Failure::new(
            ErrorCode::InvalidRequest,
            format!("older_than_s is {}, but must be a time from 0", query.older_than_s),
        )
    })?;
    let mut removed = Removed::default();
    for workspace in among {
        loop {
            let retention = Retention {
                max_age: Some(max_age),
                keep_failed: query.keep_failed,
                ..Retention::default()
            };
            // Step by step: other clients' work goes on in between.
            let mut some = workspace.archive.prune(retention).await?;
            if some.is_empty() {
                break;
            }
            removed.jobs.append(&mut some);
        }
    }
    answer.data(&removed).await?;
    Ok(())
}
