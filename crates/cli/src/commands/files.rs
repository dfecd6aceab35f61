//! Answers `jobs`, `result` and `sessions` from the files of workspaces if no daemon runs: looking
//! is no reason to start one.
//!
//! Only tells what the files say for certain. For everything else, errors included, the daemon is
//! started and asked.

use std::time::SystemTime;

use threadrunner_core::protocol::{
    Conversation, JobList, JobQuery, JobRecord, JobResult, JobsQuery, SessionList, SessionQuery,
    SessionsQuery, TurnRecord,
};
use threadrunner_core::{Failure, JobId, JobStatus, Turn, WorkspaceName, template};
use threadrunner_workspace::{Reader, by_time, list_sessions};

use crate::error::CommandError;
use crate::session::Session;

/// Readers of the workspaces that exist, with their names.
pub(super) struct Files(Vec<(WorkspaceName, Reader)>);

impl Files {
    /// Opens the files of `workspace`, or of all workspaces; `None` if a daemon runs, or if they
    /// cannot be read.
    pub(super) async fn alone(
        session: &mut Session,
        workspace: Option<&WorkspaceName>,
    ) -> Result<Option<Self>, CommandError> {
        let daemon = session.daemon();
        if session.attempt(daemon.connect()).await?.is_some() {
            return Ok(None);
        }
        let home = session.home();
        let config = home.config()?;
        let among = match workspace {
            Some(name) => vec![config.workspace(home, Some(name))?],
            None => config.all_workspaces(home),
        };
        let mut files = Vec::new();
        for workspace in among {
            // It has no jobs yet.
            if !workspace.path.exists() {
                continue;
            }
            match Reader::open(&workspace.path) {
                Ok(reader) => files.push((workspace.name, reader)),
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(Self(files)))
    }

    /// Answers `jobs`.
    pub(super) fn jobs(&self, query: &JobsQuery) -> Result<JobList, Failure> {
        let limit = query.limit.map_or(usize::MAX, |limit| limit as usize);
        let now = SystemTime::now();
        let mut jobs = Vec::new();
        for (name, reader) in &self.0 {
            let (ids, _) = reader.newest(&[], usize::MAX)?;
            jobs.extend(ids.into_iter().map(|(id, _)| (id, name, reader)));
        }
        jobs.sort_by(|(a, ..), (b, ..)| by_time(b, a));
        let records = jobs.into_iter().filter_map(|(id, name, reader)| {
            let record = at_rest(reader.record(&id).ok()?);
            Some(JobRecord { workspace: Some(name.clone()), ..record })
        });
        let mut fitting = records.filter(|record| query.fits(record, now));
        let jobs = fitting.by_ref().take(limit).collect();
        Ok(JobList { jobs, more: fitting.next().is_some() })
    }

    /// Answers `result`, if the query names exactly one job and that is done.
    pub(super) fn result(&self, query: &JobQuery) -> Option<JobResult> {
        let mut found = self
            .0
            .iter()
            .filter_map(|(name, reader)| Some((reader.resolve(&query.job).ok()?, name, reader)));
        let (id, name, reader) = found.next()?;
        if found.next().is_some() {
            return None;
        }
        let record = reader.record(&id).ok().filter(|record| record.state == JobStatus::Done)?;
        let (text, output) = reader.answer(&id).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let record = JobRecord { workspace: Some(name.clone()), ..record };
        Some(JobResult { record, text, output })
    }

    /// Answers `sessions`.
    pub(super) fn sessions(&self, query: &SessionsQuery) -> Result<SessionList, Failure> {
        let among = self.0.iter().map(|(name, reader)| (name, reader));
        let limit = query.limit.map_or(usize::MAX, |limit| limit as usize);
        Ok(list_sessions(among, limit, usize::MAX)?)
    }

    /// Answers `sessions show`, if there is exactly one session of that name.
    pub(super) fn session(&self, query: &SessionQuery) -> Option<Conversation> {
        let mut found = self.0.iter().filter_map(|(name, reader)| {
            Some((reader.session(&query.session).ok()??, name, reader))
        });
        let (file, name, reader) = found.next()?;
        if found.next().is_some() {
            return None;
        }
        let (record, chain) = reader.session_record(query.session.clone(), file, name).ok()?;
        let turns = chain.turns.into_iter().map(|id| turn(id, reader));
        Some(Conversation { conversation: turns.collect::<Option<_>>()?, record })
    }
}

/// Shows a running job as queued: nothing runs without a daemon, and the next one runs it again.
fn at_rest(record: JobRecord) -> JobRecord {
    match record.state {
        JobStatus::Running => JobRecord { state: JobStatus::Queued, ..record },
        _ => record,
    }
}

/// Reads a turn; `None` if its text refers to the answers of other jobs.
fn turn(job: JobId, reader: &Reader) -> Option<TurnRecord> {
    let spec = reader.spec(&job).ok()?;
    let prompt = String::from_utf8_lossy(&reader.prompt(&job).ok()?).into_owned();
    let refers = |text: &String| template::references(text).next().is_some();
    let refers = refers(&prompt)
        || spec.messages.iter().flat_map(|message| message.content.texts()).any(refers);
    if spec.template && refers {
        return None;
    }
    let (answer, output) = reader.answer(&job).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let meta = reader.record(&job).ok()?.meta;
    Some(TurnRecord::new(job, Turn { messages: spec.messages, prompt, answer, output }, meta))
}
