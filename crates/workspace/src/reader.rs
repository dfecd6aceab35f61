//! Reads a workspace from any thread, next to its owner or without one.

mod answer;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde::Deserialize;
use threadrunner_core::protocol::JobRecord;
use threadrunner_core::{ErrorCode, Failure, JobId, JobSelector, JobSpec, JobState, JobStatus};

use crate::files::{JobDir, ReadError, job_dir};
use crate::job_files::{OutcomeSeal, clear_outcome, load_meta, text};
use crate::layout::{ERROR_FILE, HOOK_FILE, JOB_FILE, Layout, META_FILE, PROMPT_FILE};
use crate::order::by_time;
use crate::watch::OwnArrivals;
use crate::{NotKept, Result, Retention, WorkspaceError, listing, newest_jobs};

pub use answer::PartialAnswer;

/// Reads a workspace. Cheap to clone; needs neither the owner nor the lock.
#[derive(Debug, Clone)]
pub struct Reader {
    layout: Arc<Layout>,
}

/// The states that a job can be found in, in the order in which it passes through them.
const STATES: [JobState; 4] =
    [JobState::Ready, JobState::Processing, JobState::Done, JobState::Failed];

impl Reader {
    pub(crate) fn new(layout: Arc<Layout>) -> Self {
        Self { layout }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Opens an existing workspace, for reading only.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`] when it is not a workspace or cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::new(Arc::new(Layout::open(path)?)))
    }

    /// The workspace's absolute path.
    pub fn path(&self) -> &Path {
        self.layout.root()
    }

    /// Whether the workspace is still at its path. If it was removed, moved or replaced there, this
    /// reader sees only what was.
    pub fn is_in_place(&self) -> bool {
        self.layout.is_in_place()
    }

    /// A job's state and directory.
    ///
    /// # Errors
    /// [`WorkspaceError::NotFound`].
    pub fn locate(&self, id: &JobId) -> Result<(JobState, PathBuf)> {
        let (state, _) = self.find(id)?;
        Ok((state, self.layout.job_path(state, id)))
    }

    /// Everything known of a job. Leaves it to the daemon to fill in its position in the queue,
    /// what it waits for, and its workspace.
    ///
    /// # Errors
    /// [`WorkspaceError::NotFound`]; [`WorkspaceError::Io`].
    pub fn record(&self, id: &JobId) -> Result<JobRecord> {
        let (state, fd) = self.find(id)?;
        let dir = self.job_dir(&fd, state, id);
        // Files of another program that cannot be read count as absent: `claim` judges them.
        let spec: JobSpec = json(&dir, JOB_FILE)?.unwrap_or_default();
        let mut meta = load_meta(&dir)?;
        if state.is_final() {
            OutcomeSeal::remove_from(&mut meta);
        } else {
            clear_outcome(&mut meta);
        }
        if state == JobState::Failed && meta.error.is_none() {
            meta.error = written_reason(&dir)?;
        }
        let on_done = match spec.on_done {
            Some(_) if state.is_final() => json(&dir, HOOK_FILE)?,
            _ => None,
        };
        Ok(JobRecord {
            job: id.clone(),
            state: JobStatus::of(state, meta.status),
            position: None,
            waits_for: Vec::new(),
            on_done,
            attempts: spec.attempts,
            priority: spec.priority,
            prompt_start: prompt_start(&dir, &spec)?,
            session: spec.session,
            workspace: None,
            directory: Some(dir.path),
            meta,
        })
    }

    /// What is asked of a job.
    ///
    /// # Errors
    /// [`WorkspaceError::NotFound`]; [`WorkspaceError::Io`].
    pub fn spec(&self, id: &JobId) -> Result<JobSpec> {
        let (state, fd) = self.find(id)?;
        Ok(json(&self.job_dir(&fd, state, id), JOB_FILE)?.unwrap_or_default())
    }

    /// A job's prompt.
    ///
    /// # Errors
    /// [`WorkspaceError::NotFound`]; [`WorkspaceError::Io`].
    pub fn prompt(&self, id: &JobId) -> Result<Vec<u8>> {
        let (state, fd) = self.find(id)?;
        Ok(contents(&self.job_dir(&fd, state, id), PROMPT_FILE)?.unwrap_or_default())
    }

    /// Why a job failed: the content of its `error.txt`.
    ///
    /// # Errors
    /// [`WorkspaceError::WrongState`] when it did not fail; [`WorkspaceError::NotFound`];
    /// [`WorkspaceError::Io`].
    pub fn error_text(&self, id: &JobId) -> Result<String> {
        let (state, fd) = self.find(id)?;
        if state != JobState::Failed {
            return Err(WorkspaceError::WrongState { id: id.clone(), state, wanted: "explained" });
        }
        let bytes = contents(&self.job_dir(&fd, state, id), ERROR_FILE)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(text(&bytes)).into_owned())
    }

    /// The jobs in a state, oldest first.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn ids(&self, state: JobState) -> Result<Vec<JobId>> {
        listing::ids(&self.layout, state)
    }

    /// The newest jobs in any of `states` (in all states if empty), newest first, and whether there
    /// are more than `limit`.
    ///
    /// A job that moves meanwhile is listed once, in the state where it was seen last.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn newest(
        &self,
        states: &[JobState],
        limit: usize,
    ) -> Result<(Vec<(JobId, JobState)>, bool)> {
        self.list(states, limit, |state, limit| newest_jobs::newest(&self.layout, state, limit))
    }

    /// Like [`Reader::newest`], for jobs older than `before`. Reads all names in the states'
    /// directories, so ask for many jobs at once.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn newest_before(
        &self,
        before: &JobId,
        states: &[JobState],
        limit: usize,
    ) -> Result<(Vec<(JobId, JobState)>, bool)> {
        self.list(states, limit, |state, limit| {
            listing::newest(&self.layout, state, Some(before), limit)
        })
    }

    fn list(
        &self,
        states: &[JobState],
        limit: usize,
        newest: impl Fn(JobState, usize) -> Result<Vec<JobId>>,
    ) -> Result<(Vec<(JobId, JobState)>, bool)> {
        let mut jobs = Vec::new();
        for state in STATES.into_iter().filter(|s| states.is_empty() || states.contains(s)) {
            let newest = newest(state, limit.saturating_add(1))?;
            jobs.extend(newest.into_iter().map(|id| (id, state)));
        }
        // The sort is stable: of two sightings of a job, the one in the later state comes last.
        jobs.sort_by(|(a, _), (b, _)| by_time(a, b));
        jobs.reverse();
        jobs.dedup_by(|earlier, last| earlier.0 == last.0);
        let more = jobs.len() > limit;
        jobs.truncate(limit);
        Ok((jobs, more))
    }

    /// When a state's directory last changed; `None` if unknown.
    pub fn changed(&self, state: JobState) -> Option<SystemTime> {
        std::fs::metadata(self.layout.path(state)).and_then(|found| found.modified()).ok()
    }

    /// The jobs that this process put into `input/ready`, which the watcher does not report.
    pub(crate) fn own_arrivals(&self) -> &OwnArrivals {
        self.layout.own_arrivals()
    }

    /// Notes a job that another program put into `input/ready`.
    pub(crate) fn note_arrival(&self, id: &JobId) {
        newest_jobs::came(&self.layout, id, JobState::Ready);
    }

    /// The ended jobs that `retention` does not keep. Looks at every ended job, which takes a while
    /// if there are very many, and longer with a limit on bytes.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn not_kept(&self, retention: &Retention, now: SystemTime) -> Result<NotKept> {
        retention.not_kept(&self.layout, now)
    }

    /// The number of jobs in each state.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn counts(&self) -> Result<BTreeMap<JobState, usize>> {
        STATES
            .into_iter()
            .map(|state| {
                let mut count = 0;
                listing::for_each_name(&self.layout, state, |name| {
                    count += usize::from(JobId::parse(name).is_ok());
                })?;
                Ok((state, count))
            })
            .collect()
    }

    /// The job that `selector` names.
    ///
    /// # Errors
    /// [`WorkspaceError::NotFound`], [`WorkspaceError::Ambiguous`], [`WorkspaceError::NotAnId`];
    /// [`WorkspaceError::Io`].
    pub fn resolve(&self, selector: &JobSelector) -> Result<JobId> {
        self.resolve_among(selector, &mut None)
    }

    /// Like [`Reader::resolve`], for many selectors: lists the jobs into `listed` the first time that a
    /// part of an id needs it, and looks there from then on.
    ///
    /// # Errors
    /// As [`Reader::resolve`].
    pub fn resolve_among(
        &self,
        selector: &JobSelector,
        listed: &mut Option<Vec<JobId>>,
    ) -> Result<JobId> {
        let not_found = || WorkspaceError::NotFound {
            job: selector.clone(),
            workspace: self.layout.root().to_owned(),
        };
        if selector.is_last() {
            return self.last()?.map(|(id, _)| id).ok_or_else(not_found);
        }
        if let Some(id) = selector.id()
            && self.find(&id).is_ok()
        {
            return Ok(id);
        }
        if !selector.is_part_of_an_id() {
            let text = selector.as_str().chars().take(60).collect();
            return Err(WorkspaceError::NotAnId { text });
        }
        let listed = match listed {
            Some(listed) => listed,
            None => listed.insert(self.all_ids()?),
        };
        let fits = |id: &&JobId| selector.is_part_of(id.as_str());
        let mut fitting = listed.iter().filter(fits).cloned();
        match (fitting.next(), fitting.next()) {
            (None, _) => Err(not_found()),
            (Some(id), None) => Ok(id),
            (Some(first), Some(second)) => {
                let others = fitting.count();
                Err(WorkspaceError::Ambiguous { text: selector.clone(), first, second, others })
            }
        }
    }

    /// The ids of all jobs, in the order of their times. One that moves meanwhile is in it once.
    fn all_ids(&self) -> Result<Vec<JobId>> {
        let mut ids = Vec::new();
        for state in STATES {
            listing::for_each_name(&self.layout, state, |name| ids.extend(JobId::parse(name)))?;
        }
        ids.sort_unstable_by(by_time);
        ids.dedup();
        Ok(ids)
    }

    /// The job that was submitted or arrived last, and when. If this process saw none, or that one
    /// is gone, the newest by its id.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn last(&self) -> Result<Option<(JobId, Option<Instant>)>> {
        if let Some((id, when)) = self.layout.recent().last()
            && self.find(&id).is_ok()
        {
            return Ok(Some((id, Some(when))));
        }
        let (newest, _) = self.newest(&[], 1)?;
        Ok(newest.into_iter().next().map(|(id, _)| (id, None)))
    }

    /// Finds a job and opens its directory. The handle follows the job wherever it moves.
    fn find(&self, id: &JobId) -> Result<(JobState, OwnedFd)> {
        // Looking in the order of the moves misses a job only if it moves back (released, retried)
        // behind the look. To be missed eight times, it would have to do so each time.
        for _ in 0..8 {
            for state in STATES {
                match self.layout.open_job(state, id) {
                    Ok(Some(fd)) => return Ok((state, fd)),
                    // An entry with the job's name that is not a job must not hide the job.
                    Ok(None) | Err(WorkspaceError::NotAJob { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Err(crate::staged::not_found(&self.layout, id))
    }

    fn job_dir<'a>(&self, fd: &'a OwnedFd, state: JobState, id: &JobId) -> JobDir<'a> {
        job_dir(fd, self.layout.job_path(state, id))
    }
}

/// The most bytes of `error.txt` that are shown.
const REASON_BYTES: u64 = 4096;

/// Why another program's job failed, from its `error.txt`, or from a text in its `meta.json`.
fn written_reason(dir: &JobDir<'_>) -> Result<Option<Failure>> {
    let mut bytes = Vec::new();
    if let Ok(Some((file, _))) = dir.open(ERROR_FILE) {
        file.take(REASON_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|error| dir.io("read", ERROR_FILE, error))?;
    }
    if text(&bytes).trim_ascii().is_empty() {
        #[derive(Deserialize)]
        struct Said {
            error: String,
        }
        let meta = dir.read_fit(META_FILE)?;
        let said = meta.and_then(|meta| serde_json::from_slice::<Said>(text(&meta)).ok());
        bytes = said.map_or(Vec::new(), |said| said.error.into_bytes());
        bytes.truncate(usize::try_from(REASON_BYTES).unwrap_or(usize::MAX));
    }
    let said: String = String::from_utf8_lossy(text(&bytes))
        .chars()
        // Keep control characters from reaching a terminal.
        .filter(|&c| c == '\n' || !c.is_control())
        .collect();
    let said = said.trim();
    Ok((!said.is_empty()).then(|| Failure::new(ErrorCode::JobFailed, said)))
}

/// The content of a file; `None` if it does not exist. An unfit file is an error.
fn contents(dir: &JobDir<'_>, name: &str) -> Result<Option<Vec<u8>>> {
    match dir.read(name) {
        Ok(contents) => Ok(contents),
        Err(error) => Err(read_error(dir, name, error)),
    }
}

fn json<T: serde::de::DeserializeOwned>(dir: &JobDir<'_>, name: &str) -> Result<Option<T>> {
    Ok(dir.read_fit(name)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn read_error(dir: &JobDir<'_>, name: &str, error: ReadError) -> WorkspaceError {
    match error {
        ReadError::Unfit(reason) => dir.io("read", name, std::io::Error::other(reason)),
        ReadError::Io(error) => dir.io("read", name, error),
    }
}

/// The maximum length of a prompt's beginning, in characters.
const START_CHARS: usize = 80;

fn prompt_start(dir: &JobDir<'_>, spec: &JobSpec) -> Result<String> {
    let mut bytes = Vec::new();
    if let Ok(Some((file, _))) = dir.open(PROMPT_FILE) {
        // A character has at most four bytes; the rest allows for white space.
        file.take(START_CHARS as u64 * 8)
            .read_to_end(&mut bytes)
            .map_err(|error| dir.io("read", PROMPT_FILE, error))?;
    }
    let prompt = String::from_utf8_lossy(&bytes);
    let text = match spec.messages.last() {
        Some(message) if prompt.trim().is_empty() => message.content.to_string().into(),
        _ => prompt,
    };
    let mut start = String::new();
    for word in text.split_whitespace() {
        if !start.is_empty() {
            start.push(' ');
        }
        start.extend(word.chars().filter(|c| !c.is_control()).take(START_CHARS));
        if start.chars().count() >= START_CHARS {
            break;
        }
    }
    Ok(start.chars().take(START_CHARS).collect())
}
