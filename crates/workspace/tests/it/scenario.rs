//! What is done to a workspace, what clients are told meanwhile, and what must hold of it later.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use threadrunner_core::{ErrorCode, Failure, JobId, JobState};
use threadrunner_workspace::{
    Attempt, ClaimedJob, Durability, Options, Reader, Recovered, Synced, Workspace, WorkspaceError,
};

use threadrunner_workspace::fs::{Disk, FileSystem};

use crate::support::{job, now};

/// What clients know of one job.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// It was accepted.
    pub(crate) accepted: bool,
    /// Its submitter was told that there is no such job.
    pub(crate) refused: bool,
    /// It was begun so often, and its daemon was told so.
    pub(crate) begun: u32,
    /// It ended so, and somebody was told.
    pub(crate) ended: Option<JobState>,
    /// Somebody was told that it is gone.
    pub(crate) removed: bool,
    /// An end was asked for that nobody was told of: it may have come about.
    pub(crate) ending: Vec<JobState>,
    /// A removal was.
    pub(crate) removing: bool,
    /// A retry was.
    pub(crate) retrying: bool,
}

/// What clients know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) jobs: BTreeMap<JobId, Known>,
    /// The process ended before it could clear away what had failed.
    pub(crate) ended: bool,
}

pub(crate) fn prompt_of(id: &JobId) -> String {
    format!("prompt of {id}")
}

pub(crate) fn result_of(id: &JobId) -> String {
    format!("result of {id}")
}

impl Told {
    pub(crate) fn known(&mut self, id: &JobId) -> &mut Known {
        self.jobs.entry(id.clone()).or_default()
    }

    /// Takes in what a sync says.
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

    /// Takes in what an opening says.
    pub(crate) fn recovered(&mut self, recovered: &Recovered) {
        for id in &recovered.finished {
            self.known(id).ended = Some(JobState::Done);
        }
        for id in &recovered.failed {
            self.known(id).ended = Some(JobState::Failed);
        }
    }

    /// Opens the workspace as the next daemon does, and checks every promise.
    pub(crate) fn check_after_restart(self, path: &Path, context: &str) {
        let place = Place::relaxed(path);
        let (ws, recovered) = place.open().unwrap();
        assert!(recovered.troubles.is_empty(), "{context}: {:?}", recovered.troubles);
        let reader = ws.reader();
        let found = everything(path);
        for (id, known) in &self.jobs {
            let states = found.get(id).map_or(&[][..], |states| states);
            self.check_job(id, known, states, context);
        }
        for (id, states) in &found {
            assert_eq!(states.len(), 1, "{context}: {id} is in {states:?}");
            check_whole(&reader, id, states[0], context);
        }
        let writing: Vec<_> = std::fs::read_dir(path.join("input/writing")).unwrap().collect();
        for left in writing {
            let name = left.unwrap().file_name().into_string().unwrap();
            let id = JobId::parse(&name).unwrap();
            // Half a submission, of which nobody was told.
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

    /// Whatever is queued can still be run, and each job ends once.
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
            // What was begun before is counted.
            if let Some(known) = self.jobs.get(&id).filter(|known| !known.retrying) {
                let attempts = claimed.spec().attempts;
                assert!(attempts > known.begun, "{context}: {id} {known:?}, attempt {attempts}");
            }
            let meta = claimed.meta().clone();
            ws.complete(claimed, &result_of(&id), meta, now()).unwrap();
        }
        assert!(ws.sync().failed.is_empty(), "{context}");
        for id in found.keys() {
            let (state, _) = reader.locate(id).unwrap();
            assert!(state.is_final(), "{context}: {id} is {state}");
        }
    }
}

/// Every job's directories, wherever they are.
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

/// A job that can be seen is seen whole.
fn check_whole(reader: &Reader, id: &JobId, state: JobState, context: &str) {
    let context = format!("{context}: {id} is {state}");
    let record = reader.record(id).unwrap();
    let prompt = reader.prompt(id).unwrap();
    assert_eq!(String::from_utf8(prompt).unwrap(), prompt_of(id), "{context}");
    assert_eq!(record.meta.tags, ["tag"], "{context}");
    assert!(record.meta.submitted_at.is_some(), "{context}");
    let status = record.meta.status.as_deref();
    match state {
        JobState::Done => {
            assert_eq!(reader.result(id).unwrap(), result_of(id).as_bytes(), "{context}");
            assert_eq!(status, Some("done"), "{context}");
        }
        JobState::Failed => {
            assert!(!reader.error_text(id).unwrap().is_empty(), "{context}");
            assert!(matches!(status, Some("failed" | "canceled")), "{context}");
        }
        JobState::Ready => assert_eq!(status, None, "{context}"),
        JobState::Writing | JobState::Processing => panic!("{context}"),
    }
}

/// Something that is done to a workspace, after something else was done undisturbed.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) prepare: fn(&Place, &mut Told),
    pub(crate) run: fn(&mut Workspace, &mut Told),
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "submit", prepare: nothing, run: submit_two },
    Scenario { name: "submit claimed", prepare: nothing, run: submit_claimed },
    Scenario { name: "run", prepare: queued, run: run_to_the_end },
    Scenario { name: "run attached", prepare: nothing, run: run_attached },
    Scenario { name: "fail", prepare: queued, run: fail },
    Scenario { name: "release", prepare: queued, run: release },
    Scenario { name: "cancel", prepare: queued, run: cancel },
    Scenario { name: "retry", prepare: failed, run: retry_and_run },
    Scenario { name: "remove", prepare: failed, run: remove },
    Scenario { name: "recover", prepare: abandoned, run: |_, _| {} },
    Scenario { name: "recover the last attempt", prepare: poison, run: |_, _| {} },
    Scenario { name: "a busy group", prepare: queued, run: busy_group },
];

fn new_id(ws: &mut Workspace) -> JobId {
    ws.next_id(now())
}

/// Steps stop at the first error, as an attached client's do.
type Step = Result<(), WorkspaceError>;

fn submit(ws: &mut Workspace, told: &mut Told) -> Result<JobId, WorkspaceError> {
    let id = new_id(ws);
    told.known(&id).refused = true;
    ws.submit(job(&id, &prompt_of(&id)), now())?;
    told.known(&id).refused = false;
    Ok(id)
}

fn sync(ws: &mut Workspace, told: &mut Told) {
    told.synced(ws.sync());
}

fn claim(ws: &mut Workspace, id: &JobId) -> Result<ClaimedJob, WorkspaceError> {
    ws.claim(id, now())
}

fn complete(ws: &mut Workspace, told: &mut Told, mut claimed: ClaimedJob) -> Step {
    let id = claimed.id().clone();
    let result = result_of(&id);
    told.known(&id).ending.push(JobState::Done);
    // An answer that cannot be written as it grows is written at its end.
    let (first, second) = result.split_at(7);
    let _ = claimed.append_partial(first);
    let _ = claimed.append_partial(second);
    let meta = claimed.meta().clone();
    ws.complete(claimed, &result, meta, now()).map_err(|still| still.error)
}

fn fail_claimed(ws: &mut Workspace, told: &mut Told, claimed: ClaimedJob) -> Step {
    let failure = Failure::new(ErrorCode::Inference, "no luck");
    told.known(claimed.id()).ending.push(JobState::Failed);
    let meta = claimed.meta().clone();
    ws.fail(claimed, &failure, meta, now()).map_err(|still| still.error)
}

fn only(ws: &Workspace, state: JobState) -> JobId {
    ws.reader().ids(state).unwrap().remove(0)
}

/// A workspace that is opened several times.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) durability: Durability,
}

impl Place {
    /// On the disk as it is, without waiting for it: where the power stays on, what was written
    /// is there.
    pub(crate) fn relaxed(path: &Path) -> Self {
        Self { path: path.to_owned(), fs: Arc::new(Disk), durability: Durability::Relaxed }
    }

    pub(crate) fn open(&self) -> Result<(Workspace, Recovered), WorkspaceError> {
        let options = Options { durability: self.durability, ..Options::default() };
        Workspace::open_on(Arc::clone(&self.fs), &self.path, options, now())
    }
}

fn nothing(_: &Place, _: &mut Told) {}

fn undisturbed(place: &Place, told: &mut Told, run: fn(&mut Workspace, &mut Told) -> Step) {
    let (mut ws, recovered) = place.open().unwrap();
    told.recovered(&recovered);
    run(&mut ws, told).unwrap();
}

fn queued(place: &Place, told: &mut Told) {
    undisturbed(place, told, |ws, told| {
        submit(ws, told)?;
        sync(ws, told);
        Ok(())
    });
}

fn failed(place: &Place, told: &mut Told) {
    queued(place, told);
    undisturbed(place, told, |ws, told| {
        let claimed = claim(ws, &only(ws, JobState::Ready))?;
        sync(ws, told);
        fail_claimed(ws, told, claimed)?;
        sync(ws, told);
        Ok(())
    });
}

/// A job left in `processing` at each stage, and a submission that was never answered.
fn abandoned(place: &Place, told: &mut Told) {
    undisturbed(place, told, |ws, told| {
        for _ in 0..3 {
            submit(ws, told)?;
        }
        sync(ws, told);
        let ids = ws.reader().ids(JobState::Ready).unwrap();
        let [begun, done, failed] = [&ids[0], &ids[1], &ids[2]].map(|id| claim(ws, id).unwrap());
        sync(ws, told);
        drop(begun);
        complete(ws, told, done)?;
        fail_claimed(ws, told, failed)?;
        submit(ws, told)?;
        Ok(())
    });
}

/// A job that was begun for the last time and never ended.
fn poison(place: &Place, told: &mut Told) {
    queued(place, told);
    for _ in 0..3 {
        undisturbed(place, told, |ws, told| {
            drop(claim(ws, &only(ws, JobState::Ready))?);
            sync(ws, told);
            Ok(())
        });
    }
    let id = told.jobs.keys().next().unwrap().clone();
    told.known(&id).ending.push(JobState::Failed);
}

fn submit_two(ws: &mut Workspace, told: &mut Told) {
    for _ in 0..2 {
        let _ = submit(ws, told);
    }
    sync(ws, told);
}

fn submit_claimed(ws: &mut Workspace, told: &mut Told) {
    let id = new_id(ws);
    told.known(&id);
    let claimed = ws.submit_claimed(job(&id, &prompt_of(&id)), now());
    sync(ws, told);
    drop(claimed);
}

fn run_to_the_end(ws: &mut Workspace, told: &mut Told) {
    let mut run = || -> Step {
        let id = only(ws, JobState::Ready);
        let claimed = claim(ws, &id)?;
        sync(ws, told);
        complete(ws, told, claimed)?;
        sync(ws, told);
        Ok(())
    };
    let _ = run();
}

fn run_attached(ws: &mut Workspace, told: &mut Told) {
    let id = new_id(ws);
    told.known(&id);
    let Ok(claimed) = ws.submit_claimed(job(&id, &prompt_of(&id)), now()) else { return };
    let mut synced = ws.sync();
    let failed = synced.take_error(&id).is_some();
    told.synced(synced);
    if failed {
        drop(claimed);
        return;
    }
    let _ = complete(ws, told, claimed);
    sync(ws, told);
}

fn fail(ws: &mut Workspace, told: &mut Told) {
    let mut run = || -> Step {
        let claimed = claim(ws, &only(ws, JobState::Ready))?;
        sync(ws, told);
        fail_claimed(ws, told, claimed)?;
        sync(ws, told);
        Ok(())
    };
    let _ = run();
}

fn release(ws: &mut Workspace, told: &mut Told) {
    let mut run = || -> Step {
        let id = only(ws, JobState::Ready);
        for attempt in [Attempt::Counted, Attempt::Forgotten] {
            let mut claimed = claim(ws, &id)?;
            sync(ws, told);
            let _ = claimed.append_partial("half");
            if attempt == Attempt::Forgotten {
                told.known(&id).begun = 0;
            }
            ws.release(claimed, attempt).map_err(|still| still.error)?;
            sync(ws, told);
        }
        Ok(())
    };
    let _ = run();
}

fn cancel(ws: &mut Workspace, told: &mut Told) {
    let id = only(ws, JobState::Ready);
    told.known(&id).ending.push(JobState::Failed);
    let _ = ws.cancel(&id, now());
    sync(ws, told);
}

fn retry_and_run(ws: &mut Workspace, told: &mut Told) {
    let id = only(ws, JobState::Failed);
    told.known(&id).retrying = true;
    let _ = ws.retry(&id);
    sync(ws, told);
    if ws.reader().ids(JobState::Ready).unwrap().contains(&id) {
        run_to_the_end(ws, told);
    }
}

fn remove(ws: &mut Workspace, told: &mut Told) {
    let id = only(ws, JobState::Failed);
    told.known(&id).removing = true;
    let _ = ws.remove(&id);
    sync(ws, told);
}

/// A submission, a claim and an end in one group.
fn busy_group(ws: &mut Workspace, told: &mut Told) {
    let mut run = || -> Step {
        let first = only(ws, JobState::Ready);
        let claimed = claim(ws, &first)?;
        let second = submit(ws, told)?;
        sync(ws, told);
        complete(ws, told, claimed)?;
        let third = new_id(ws);
        told.known(&third);
        let claimed = ws.submit_claimed(job(&third, &prompt_of(&third)), now())?;
        drop(claim(ws, &second)?);
        sync(ws, told);
        fail_claimed(ws, told, claimed)?;
        sync(ws, told);
        Ok(())
    };
    let _ = run();
}
