//! `jobs`: many jobs' records, newest first.

use std::time::SystemTime;

use threadrunner_core::JobState;
use threadrunner_core::protocol::{JobList, JobRecord, JobsQuery};
use threadrunner_workspace::parse_timestamp;

use super::Stop;
use crate::connection::Answer;
use crate::context::Context;

/// Records sent when the query names no number.
const USUAL: usize = 50;
/// Records sent at most.
const MOST: usize = 10_000;

pub(super) async fn jobs(context: &Context, query: JobsQuery, answer: &Answer) -> Result<(), Stop> {
    context.workspace_known(query.workspace.as_deref())?;
    let limit = query.limit.map_or(USUAL, |limit| (limit as usize).min(MOST));
    let mut list = context
        .read(move |reader| {
            let now = SystemTime::now();
            let (found, _) = reader.newest(&query.states, usize::MAX)?;
            let mut jobs = Vec::new();
            for (id, _) in found {
                // One that was removed since the listing is none any more.
                let Ok(record) = reader.record(&id) else { continue };
                if matches(&query, &record, now) {
                    if jobs.len() == limit {
                        return Ok(JobList { jobs, more: true });
                    }
                    jobs.push(record);
                }
            }
            Ok(JobList { jobs, more: false })
        })
        .await?;
    let ready = |job: &&mut JobRecord| job.state == JobState::Ready;
    let mut queued: Vec<_> = list.jobs.iter_mut().filter(ready).collect();
    let ids = queued.iter().map(|job| job.job.clone()).collect();
    for (job, waits_for) in queued.iter_mut().zip(context.hub.waits_for(ids).await?) {
        job.waits_for = waits_for;
    }
    answer.data(&list).await?;
    Ok(())
}

fn matches(query: &JobsQuery, record: &JobRecord, now: SystemTime) -> bool {
    let submitted = record.meta.submitted_at.as_deref().and_then(parse_timestamp);
    let age = submitted.and_then(|time| now.duration_since(time).ok()).unwrap_or_default();
    let age = age.as_secs_f64();
    // A job that moved since the listing is where it is now.
    (query.states.is_empty() || query.states.contains(&record.state))
        && query.tag.as_ref().is_none_or(|tag| record.meta.tags.contains(tag))
        && query.model.as_ref().is_none_or(|name| record.meta.model.as_ref() == Some(name))
        && query.newer_than_s.is_none_or(|limit| age <= limit)
        && query.older_than_s.is_none_or(|limit| age >= limit)
}
