//! `jobs`: many jobs' records, newest first.

use std::sync::Arc;
use std::time::SystemTime;

use threadrunner_core::protocol::{JobIds, JobList, JobRecord, JobsQuery};
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
/// Names that are looked at first: so many are remembered, and cost no reading of directories.
const FIRST_PAGE: usize = 1000;
/// Names that are looked at next. To find them is to read all names, so they are many.
const PAGE: usize = 50_000;

pub(super) async fn jobs(context: &Context, query: JobsQuery, answer: &Answer) -> Result<(), Stop> {
    let among = context.among(query.workspace.as_deref()).await?;
    if query.ids {
        return ids(among, query, answer).await;
    }
    let limit = query.limit.map_or(USUAL, |limit| (limit as usize).min(MOST));
    let query = Arc::new(query);
    let mut list = JobList { jobs: Vec::new(), more: true };
    let mut before: Option<JobId> = None;
    // Page by page: most often all that is wanted is among the newest, and a client that goes away
    // is not answered to the end of a million jobs.
    while list.more && list.jobs.len() < limit && !answer.is_gone() {
        let (query, among, room) = (query.clone(), among.clone(), limit - list.jobs.len());
        let page = blocking(move || page(&among, &query, before, room)).await?;
        before = page.oldest;
        list.jobs.extend(page.jobs);
        list.more = page.more;
    }
    let ready = |job: &&mut JobRecord| job.state == JobState::Ready;
    let mut queued: Vec<_> = list.jobs.iter_mut().filter(ready).collect();
    let ids = queued.iter().map(|job| job.job.clone()).collect();
    for (job, waits_for) in queued.iter_mut().zip(context.hub.waits_for(ids).await?) {
        job.waits_for = waits_for;
    }
    answer.data(&list).await?;
    Ok(())
}

/// Ids alone: a hundred thousand are a small frame, so that there is no limit but the query's.
async fn ids(among: Vec<Served>, query: JobsQuery, answer: &Answer) -> Result<(), Stop> {
    let limit = query.limit.map_or(usize::MAX, |limit| limit as usize);
    // A job's place is all that is asked for, mostly: then no file is read.
    let by_place = query.tag.is_none()
        && query.model.is_none()
        && query.newer_than_s.is_none()
        && query.older_than_s.is_none();
    if by_place {
        let mut ids = blocking(move || by_place_alone(&among, &query.states)).await?;
        let more = ids.len() > limit;
        ids.truncate(limit);
        answer.data(&JobIds { ids, more }).await?;
        return Ok(());
    }
    let query = Arc::new(query);
    let mut list = JobIds { ids: Vec::new(), more: true };
    let mut before: Option<JobId> = None;
    while list.more && list.ids.len() < limit && !answer.is_gone() {
        let (query, among) = (query.clone(), among.clone());
        let room = (limit - list.ids.len()).min(MOST);
        let page = blocking(move || page(&among, &query, before, room)).await?;
        before = page.oldest;
        list.ids.extend(page.jobs.into_iter().map(|record| record.job));
        list.more = page.more;
    }
    answer.data(&list).await?;
    Ok(())
}

/// From the directories themselves, not from what is remembered of them: nobody looks afterwards
/// whether a job is still there.
fn by_place_alone(among: &[Served], states: &[JobState]) -> Result<Vec<JobId>, Failure> {
    let mut ids = Vec::new();
    for state in JobState::ALL {
        let asked = states.is_empty() || states.contains(&state);
        if asked && state != JobState::Writing {
            for workspace in among {
                ids.extend(workspace.reader.ids(state)?);
            }
        }
    }
    ids.sort_unstable_by(|a, b| by_time(b, a));
    // One that moved meanwhile was seen twice.
    ids.dedup();
    Ok(ids)
}

/// Jobs looked at for one page of matching ones.
struct Page {
    jobs: Vec<JobRecord>,
    /// The last one that was looked at.
    oldest: Option<JobId>,
    /// Whether there may be more: one more that matches, or some that were not looked at.
    more: bool,
}

fn page(
    among: &[Served],
    query: &JobsQuery,
    before: Option<JobId>,
    room: usize,
) -> Result<Page, Failure> {
    let now = SystemTime::now();
    let (found, more) = newest(among, query, before.as_ref(), room)?;
    let mut page = Page { jobs: Vec::new(), oldest: before, more };
    for (id, workspace) in found {
        // One that was removed since the listing is none any more.
        if let Ok(record) = workspace.reader.record(&id)
            && matches(query, &record, now)
        {
            if page.jobs.len() == room {
                page.more = true;
                return Ok(page);
            }
            let workspace = Some(workspace.settings.name.clone());
            page.jobs.push(JobRecord { workspace, ..record });
        }
        page.oldest = Some(id);
    }
    Ok(page)
}

/// Jobs and where they are.
type Found<'a> = Vec<(JobId, &'a Served)>;

/// The next jobs of all these workspaces, newest first, and whether there are more.
fn newest<'a>(
    among: &'a [Served],
    query: &JobsQuery,
    before: Option<&JobId>,
    room: usize,
) -> Result<(Found<'a>, bool), Failure> {
    let mut jobs = Vec::new();
    // The newest job at which one of the lists was cut: what is older is for the next page.
    let mut cut: Option<JobId> = None;
    for workspace in among {
        let (found, more) = match before {
            None => workspace.reader.newest(&query.states, FIRST_PAGE.max(room + 1))?,
            Some(before) => workspace.reader.newest_before(before, &query.states, PAGE)?,
        };
        if let (true, Some((oldest, _))) = (more, found.last())
            && cut.as_ref().is_none_or(|cut| by_time(cut, oldest).is_lt())
        {
            cut = Some(oldest.clone());
        }
        jobs.extend(found.into_iter().map(|(id, _)| (id, workspace)));
    }
    if among.len() > 1 {
        jobs.sort_by(|(a, _), (b, _)| by_time(b, a));
        jobs.retain(|(id, _)| cut.as_ref().is_none_or(|cut| by_time(id, cut).is_ge()));
    }
    Ok((jobs, cut.is_some()))
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
