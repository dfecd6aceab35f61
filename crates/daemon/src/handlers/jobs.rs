//! `jobs`: many jobs' records, newest first.

use std::time::SystemTime;

use threadrunner_core::protocol::{JobList, JobRecord, JobsQuery};
use threadrunner_core::{Failure, JobId, JobState};
use threadrunner_workspace::{by_time, parse_timestamp};

use super::Stop;
use crate::connection::Answer;
use crate::context::Context;
use crate::workspaces::{Served, blocking};

/// Records sent when the query names no number.
const USUAL: usize = 50;
/// Records sent at most.
const MOST: usize = 10_000;

pub(super) async fn jobs(context: &Context, query: JobsQuery, answer: &Answer) -> Result<(), Stop> {
    let among = context.workspaces.among(query.workspace.as_deref())?;
    let limit = query.limit.map_or(USUAL, |limit| (limit as usize).min(MOST));
    let list = blocking(move || list(&query, &among, limit)).await?;
    answer.data(&list).await?;
    Ok(())
}

fn list(query: &JobsQuery, among: &[Served], limit: usize) -> Result<JobList, Failure> {
    let now = SystemTime::now();
    let mut jobs = Vec::new();
    for (id, workspace) in newest(&query.states, among)? {
        // One that was removed since the listing is none any more.
        let Ok(record) = workspace.reader.record(&id) else { continue };
        if matches(query, &record, now) {
            if jobs.len() == limit {
                return Ok(JobList { jobs, more: true });
            }
            let workspace = Some(workspace.settings.name.clone());
            jobs.push(JobRecord { workspace, ..record });
        }
    }
    Ok(JobList { jobs, more: false })
}

/// All jobs in any of these states, newest first.
fn newest<'a>(
    states: &[JobState],
    among: &'a [Served],
) -> Result<Vec<(JobId, &'a Served)>, Failure> {
    let mut jobs = Vec::new();
    for workspace in among {
        let (ids, _) = workspace.reader.newest(states, usize::MAX)?;
        jobs.extend(ids.into_iter().map(|(id, _)| (id, workspace)));
    }
    if among.len() > 1 {
        jobs.sort_by(|(a, _), (b, _)| by_time(b, a));
    }
    Ok(jobs)
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
