//! What clients were told, and what must hold because of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use threadrunner_core::{JobId, JobOutcome, JobState, Output};
use threadrunner_workspace::fs::{Disk, FileSystem};
use threadrunner_workspace::{
    Durability, Options, Reader, Recovered, Synced, Workspace, WorkspaceError,
};

use crate::support::now;

/// What clients know of one job.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// Its submitter was told that it was accepted.
    pub(crate) accepted: bool,
    /// Its submitter was told that there is no such job.
    pub(crate) refused: bool,
    /// The attempts that its daemon was told of.
    pub(crate) begun: u32,
    /// How it ended, if a client was told.
    pub(crate) ended: Option<JobState>,
    /// A client was told that it is gone.
    pub(crate) removed: bool,
    /// Ends that were requested without an answer: they may have come about.
    pub(crate) ending: Vec<JobState>,
    /// A removal was requested without an answer.
    pub(crate) removing: bool,
    /// A retry was requested without an answer.
    pub(crate) retrying: bool,
    /// It has a hook.
    pub(crate) hooked: bool,
}

/// What clients know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) jobs: BTreeMap<JobId, Known>,
    /// The process ended before it could clean up what had failed.
    pub(crate) ended: bool,
}

pub(crate) fn prompt_of(id: &JobId) -> String {
    format!("prompt of {id}")
}

pub(crate) fn result_of(id: &JobId) -> String {
    format!("result of {id}")
}

pub(crate) fn output_of(id: &JobId) -> [Output; 1] {
    [Output::Reasoning { text: format!("thoughts of {id}") }]
}

impl Told {
    pub(crate) fn known(&mut self, id: &JobId) -> &mut Known {
        self.jobs.entry(id.clone()).or_default()
    }

    /// Records the outcome of a sync.
    pub(crate) fn synced(&mut self, synced: Synced) {
        for (id, _) in synced.failed {
            let known = self.known(&id);
            known.refused = !known.accepted;
        }
        for (id, state) in synced.done {
            let known = self.known(&id);
            known.accepted = true;
            match state {
                Some(JobState::Processing) => known.begun += 1,
                Some(JobState::Ready) => {
                    if known.retrying {
                        *known = Known { accepted: true, ..Known::default() };
                    }
                }
                Some(state) => known.ended = Some(state),
                None => known.removed = true,
            }
        }
    }

    /// Records the outcome of opening the workspace.
    pub(crate) fn recovered(&mut self, recovered: &Recovered) {
        for id in &recovered.finished {
            self.known(id).ended = Some(JobState::Done);
        }
        for id in &recovered.failed {
            self.known(id).ended = Some(JobState::Failed);
        }
    }

    /// Opens the workspace as the next daemon does, and checks every guarantee.
    pub(crate) fn check_after_restart(self, path: &Path, context: &str) {
        let place = Place::relaxed(path);
        let (ws, recovered) = place.open().unwrap();
        assert!(recovered.troubles.is_empty(), "{context}: {:?}", recovered.troubles);
        let reader = ws.reader();
        let hooks = ws.expected_hooks().unwrap();
        let found = everything(path);
        for (id, known) in &self.jobs {
            let states = found.get(id).map_or(&[][..], |states| states);
            self.check_job(id, known, states, context);
            let hooked = known.hooked && known.accepted;
            assert!(!hooked || hooks.contains(id), "{context}: {id} has no hook in {hooks:?}");
        }
        for (id, states) in &found {
            assert_eq!(states.len(), 1, "{context}: {id} is in {states:?}");
            check_whole(&reader, id, states[0], context);
        }
        let writing: Vec<_> = std::fs::read_dir(path.join("input/writing")).unwrap().collect();
        for left in writing {
            let name = left.unwrap().file_name().into_string().unwrap();
            let id = JobId::parse(&name).unwrap();
            // Half a submission that no client was told of.
            assert!(!found.contains_key(&id), "{context}: {id} is twice");
            assert!(!self.jobs.get(&id).is_some_and(|known| known.accepted), "{context}: {id}");
        }
        drop(ws);
        let (ws, again) = place.open().unwrap();
        let moved = [&again.submitted, &again.requeued, &again.finished, &again.failed];
        assert!(moved.iter().all(|ids| ids.is_empty()), "{context}: {again:?}");
        self.finish_everything(ws, &found, context);
    }

    fn check_job(&self, id: &JobId, known: &Known, states: &[JobState], context: &str) {
        let context = format!("{context}: {id} {known:?} is in {states:?}");
        if known.removed {
            assert!(states.is_empty(), "{context}");
            return;
        }
        if known.refused && !self.ended {
            assert!(states.is_empty(), "{context}");
        }
        if !known.accepted || known.removing {
            return;
        }
        let [state] = states else { panic!("{context}") };
        match known.ended {
            Some(JobState::Done) => assert_eq!(*state, JobState::Done, "{context}"),
            Some(ended) => assert!(*state == ended || known.retrying, "{context}"),
            None => assert!(
                *state == JobState::Ready || known.ending.contains(state) || known.begun >= 3,
                "{context}"
            ),
        }
    }

    /// Checks that whatever is queued can still run, and that each job ends once.
    fn finish_everything(
        &self,
        mut ws: Workspace,
        found: &BTreeMap<JobId, Vec<JobState>>,
        context: &str,
    ) {
        let reader = ws.reader();
        for id in reader.ids(JobState::Ready).unwrap() {
            let claimed = match ws.claim(&id, now()) {
                Ok(claimed) => claimed,
                Err(WorkspaceError::Rejected { .. }) if self.jobs[&id].begun >= 3 => continue,
                Err(error) => panic!("{context}: {error}"),
            };
            assert_eq!(claimed.prompt(), prompt_of(&id), "{context}");
            // Earlier attempts are counted.
            if let Some(known) = self.jobs.get(&id).filter(|known| !known.retrying) {
                let attempts = claimed.spec().attempts;
                assert!(attempts > known.begun, "{context}: {id} {known:?}, attempt {attempts}");
            }
            let meta = claimed.meta().clone();
            ws.complete(claimed, &result_of(&id), &output_of(&id), meta, now()).unwrap();
        }
        assert!(ws.sync().failed.is_empty(), "{context}");
        for id in found.keys() {
            let (state, _) = reader.locate(id).unwrap();
            assert!(state.is_final(), "{context}: {id} is {state}");
        }
    }
}

/// All directories of each job, wherever they are.
fn everything(path: &Path) -> BTreeMap<JobId, Vec<JobState>> {
    let mut found: BTreeMap<JobId, Vec<JobState>> = BTreeMap::new();
    for state in &JobState::ALL[1..] {
        for entry in std::fs::read_dir(path.join(state.directory())).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            found.entry(JobId::parse(&name).unwrap()).or_default().push(*state);
        }
    }
    found
}

/// Checks that a visible job is complete.
fn check_whole(reader: &Reader, id: &JobId, state: JobState, context: &str) {
    let context = format!("{context}: {id} is {state}");
    let record = reader.record(id).unwrap();
    let prompt = reader.prompt(id).unwrap();
    assert_eq!(String::from_utf8(prompt).unwrap(), prompt_of(id), "{context}");
    assert_eq!(record.meta.tags, ["tag"], "{context}");
    assert!(record.meta.submitted_at.is_some(), "{context}");
    let status = record.meta.status;
    match state {
        JobState::Done => {
            assert_eq!(reader.result(id).unwrap(), result_of(id).as_bytes(), "{context}");
            assert_eq!(reader.output(id).unwrap(), output_of(id), "{context}");
            assert_eq!(status, Some(JobOutcome::Done), "{context}");
        }
        JobState::Failed => {
            assert!(!reader.error_text(id).unwrap().is_empty(), "{context}");
            assert!(matches!(status, Some(JobOutcome::Failed | JobOutcome::Canceled)), "{context}");
        }
        JobState::Ready => assert_eq!(status, None, "{context}"),
        JobState::Writing | JobState::Processing => panic!("{context}"),
    }
}

/// A workspace that is opened several times.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) durability: Durability,
}

impl Place {
    /// On the real disk, without waiting for it: while the power stays on, what was written is
    /// there.
    pub(crate) fn relaxed(path: &Path) -> Self {
        Self { path: path.to_owned(), fs: Arc::new(Disk), durability: Durability::Relaxed }
    }

    pub(crate) fn open(&self) -> Result<(Workspace, Recovered), WorkspaceError> {
        let options = Options { durability: self.durability, ..Options::default() };
        Workspace::open_on(Arc::clone(&self.fs), &self.path, options, now())
    }
}
