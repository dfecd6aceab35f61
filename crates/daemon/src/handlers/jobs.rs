//! `jobs`: lists the records of many jobs, newest first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use threadrunner_core::protocol::{Ids, JobIds, JobList, JobRecord, JobsQuery, ask};
use threadrunner_core::{Failure, JobId, JobState, JobStatus, MAX_FRAME_BYTES, json_length};
use threadrunner_workspace::by_time;

use super::Stop;
use super::job::with_model;
use crate::answer::Answer;
use crate::blocking::blocking;
use crate::context::Context;
use crate::workspaces::Served;

/// The default limit.
const USUAL: usize = 50;
/// The maximum number of records per answer.
const MOST: usize = 10_000;
/// The maximum size of an answer's records in bytes. Other programs may have written large ones.
const MOST_BYTES: usize = 16 << 20;
/// The usual upper bounds on the sizes of a record and of an id, in bytes.
const RECORD_BYTES: usize = 1 << 10;
const ID_BYTES: usize = 160;
/// How many names the first page covers. That many are remembered, so no directory is read.
const FIRST_PAGE: usize = 1000;
/// How many names each later page covers. Every such page reads all names, so it covers many.
const PAGE: usize = 50_000;

pub(super) async fn jobs(context: &Context, query: JobsQuery, answer: &Answer) -> Result<(), Stop> {
    let among = context.among(query.workspace.as_ref()).await?;
    if query.ids {
        return ids(context, among, query, answer).await;
    }
    let limit = query.limit.map_or(USUAL, |limit| (limit as usize).min(MOST));
    let room = answer.room((limit * RECORD_BYTES).min(2 * MOST_BYTES)).await?;
    let query = Arc::new(query);
    let models = Arc::new(context.hub.running_models().await?);
    let mut list = JobList { jobs: Vec::new(), more: true };
    let (mut before, mut bytes): (Option<JobId>, usize) = (None, 0);
    // Page by page: usually the newest jobs are all that is wanted, and a client that goes away
    // does not have a million jobs read for it.
    while list.more && list.jobs.len() < limit && bytes < MOST_BYTES && !answer.is_gone() {
        let (query, among, models) = (query.clone(), among.clone(), models.clone());
        let left = Left { jobs: limit - list.jobs.len(), bytes: MOST_BYTES - bytes };
        let page = blocking(move || page(&among, &query, &models, before, left)).await?;
        before = page.oldest;
        bytes += page.bytes;
        list.jobs.extend(page.jobs);
        list.more = page.more;
    }
    let ready = |job: &&mut JobRecord| job.state == JobStatus::Queued;
    let mut queued: Vec<_> = list.jobs.iter_mut().filter(ready).collect();
    let ids = queued.iter().map(|job| job.job.clone()).collect();
    for (job, waits_for) in queued.iter_mut().zip(context.hub.waits_for(ids).await?) {
        job.waits_for = waits_for;
    }
    answer.data_in::<ask::Jobs>(list, room).await?;
    Ok(())
}

/// Sends ids alone. A hundred thousand fit in a small frame, so the query's limit is the only one.
async fn ids(
    context: &Context,
    among: Vec<Served>,
    query: JobsQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let limit = query.limit.map_or(usize::MAX, |limit| limit as usize);
    let asked = |status| query.states.contains(&status);
    // If only the states' directories matter, no file has to be read.
    let by_place = asked(JobStatus::Failed) == asked(JobStatus::Canceled)
        && query.tag.is_none()
        && query.model.is_none()
        && query.newer_than_s.is_none()
        && query.older_than_s.is_none();
    let room = answer.room(limit.saturating_mul(ID_BYTES).min(MAX_FRAME_BYTES)).await?;
    if by_place {
        let places = places(&query.states);
        let mut ids = blocking(move || by_place_alone(&among, &places)).await?;
        let more = ids.len() > limit;
        ids.truncate(limit);
        answer.data_in::<Ids>(JobIds { ids, more }, room).await?;
        return Ok(());
    }
    let query = Arc::new(query);
    let models = Arc::new(context.hub.running_models().await?);
    let mut list = JobIds { ids: Vec::new(), more: true };
    let mut before: Option<JobId> = None;
    while list.more && list.ids.len() < limit && !answer.is_gone() {
        let (query, among, models) = (query.clone(), among.clone(), models.clone());
        let left = Left { jobs: (limit - list.ids.len()).min(MOST), bytes: MOST_BYTES };
        let page = blocking(move || page(&among, &query, &models, before, left)).await?;
        before = page.oldest;
        list.ids.extend(page.jobs.into_iter().map(|record| record.job));
        list.more = page.more;
    }
    answer.data_in::<Ids>(list, room).await?;
    Ok(())
}

/// Lists ids by reading the directories rather than what is remembered of them: nothing checks
/// afterwards whether a job still exists.
fn by_place_alone(among: &[Served], places: &[JobState]) -> Result<Vec<JobId>, Failure> {
    let mut ids = Vec::new();
    for state in JobState::ALL {
        let asked = places.is_empty() || places.contains(&state);
        if asked && state != JobState::Writing {
            for workspace in among {
                ids.extend(workspace.reader.ids(state)?);
            }
        }
    }
    ids.sort_unstable_by(|a, b| by_time(b, a));
    // A job that moved during the listing appears twice.
    ids.dedup();
    Ok(ids)
}

/// What may still go into an answer.
#[derive(Debug, Clone, Copy)]
struct Left {
    jobs: usize,
    bytes: usize,
}

/// The matching jobs among those that one page covers.
struct Page {
    jobs: Vec<JobRecord>,
    /// Their size in bytes on the wire.
    bytes: usize,
    /// The last job that was looked at.
    oldest: Option<JobId>,
    /// Whether there may be more: another job that matches, or jobs that were not looked at.
    more: bool,
}

fn page(
    among: &[Served],
    query: &JobsQuery,
    models: &HashMap<JobId, String>,
    before: Option<JobId>,
    left: Left,
) -> Result<Page, Failure> {
    let now = SystemTime::now();
    let (found, more) = newest(among, query, before.as_ref(), left.jobs)?;
    let mut page = Page { jobs: Vec::new(), bytes: 0, oldest: before, more };
    for (id, workspace) in found {
        // Skip a job that was removed since the listing.
        let record = workspace.reader.record(&id).map(|record| with_model(record, models));
        if let Ok(record) = record
            // A job that moved since the listing counts where it is now.
            && query.fits(&record, now)
        {
            if page.jobs.len() == left.jobs || page.bytes >= left.bytes {
                page.more = true;
                return Ok(page);
            }
            let workspace = Some(workspace.settings.name.clone());
            let record = JobRecord { workspace, ..record };
            page.bytes += json_length(&record);
            page.jobs.push(record);
        }
        page.oldest = Some(id);
    }
    Ok(page)
}

/// Jobs and their workspaces.
type Found<'a> = Vec<(JobId, &'a Served)>;

/// Returns the next jobs of all these workspaces, newest first, and whether there are more.
fn newest<'a>(
    among: &'a [Served],
    query: &JobsQuery,
    before: Option<&JobId>,
    room: usize,
) -> Result<(Found<'a>, bool), Failure> {
    let mut jobs = Vec::new();
    let places = places(&query.states);
    // The newest job at which a workspace's list was cut: older jobs belong to the next page.
    let mut cut: Option<JobId> = None;
    for workspace in among {
        let (found, more) = match before {
            None => workspace.reader.newest(&places, FIRST_PAGE.max(room + 1))?,
            Some(before) => workspace.reader.newest_before(before, &places, PAGE)?,
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

/// The directories of jobs in these states.
fn places(states: &[JobStatus]) -> Vec<JobState> {
    states.iter().filter_map(|status| status.place()).collect()
}
