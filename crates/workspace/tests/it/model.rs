//! Random operations, compared with a model that is simple enough to be right.

use std::collections::BTreeMap;

use proptest::prelude::*;
use threadrunner_core::{ErrorCode, Failure, JobId, JobState};
use threadrunner_workspace::{Attempt, ClaimedJob, Workspace, WorkspaceError};

use crate::support::{job, memory_dir, now};
use crate::told::Place;

#[derive(Debug, Clone, Copy)]
enum Op {
    Submit,
    SubmitClaimed,
    Claim(usize),
    Append(usize),
    Complete(usize),
    Fail(usize),
    Release(usize, bool),
    Cancel(usize),
    Retry(usize),
    Remove(usize),
    Sync,
    /// The daemon crashes, and another one starts.
    Crash,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    // Few jobs, so that operations collide.
    let nth = 0_usize..6;
    let op = prop_oneof![
        3 => Just(Op::Submit),
        1 => Just(Op::SubmitClaimed),
        4 => nth.clone().prop_map(Op::Claim),
        2 => nth.clone().prop_map(Op::Append),
        2 => nth.clone().prop_map(Op::Complete),
        2 => nth.clone().prop_map(Op::Fail),
        2 => (nth.clone(), any::<bool>()).prop_map(|(job, counted)| Op::Release(job, counted)),
        1 => nth.clone().prop_map(Op::Cancel),
        1 => nth.clone().prop_map(Op::Retry),
        1 => nth.prop_map(Op::Remove),
        3 => Just(Op::Sync),
        1 => Just(Op::Crash),
    ];
    prop::collection::vec(op, 1..60)
}

/// The expected state of a job, and whether it is on the disk yet.
#[derive(Debug, Clone, PartialEq)]
struct Modelled {
    state: JobState,
    attempts: u32,
    synced: bool,
    answer: String,
}

#[derive(Debug, Default)]
struct Model {
    jobs: Vec<(JobId, Option<Modelled>)>,
    claimed: BTreeMap<JobId, ClaimedJob>,
}

impl Model {
    fn nth(&self, n: usize) -> Option<JobId> {
        let id = &self.jobs.get(n % self.jobs.len().max(1))?.0;
        Some(id.clone())
    }

    fn get(&mut self, id: &JobId) -> &mut Option<Modelled> {
        &mut self.jobs.iter_mut().find(|(other, _)| other == id).unwrap().1
    }

    /// Changes a job if it is in this state.
    fn change(
        &mut self,
        id: &JobId,
        from: JobState,
        result: Result<(), WorkspaceError>,
        change: impl FnOnce(&mut Modelled),
    ) {
        let job = self.get(id);
        match (job, result) {
            (Some(job), Ok(())) => {
                assert_eq!(job.state, from, "{id}");
                change(job);
                job.synced = false;
            }
            (Some(job), Err(WorkspaceError::WrongState { state, .. })) => {
                assert_eq!(state, job.state, "{id}");
                assert_ne!(state, from, "{id}");
            }
            (None, Err(WorkspaceError::NotFound { .. })) => {}
            // Out of attempts: `claim` fails it.
            (Some(job), Err(WorkspaceError::Rejected { .. })) => {
                assert_eq!((job.state, job.attempts, from), (JobState::Ready, 3, JobState::Ready));
                job.state = JobState::Failed;
                job.synced = false;
            }
            (job, result) => panic!("{id} {job:?}: {result:?}"),
        }
    }

    fn apply(&mut self, ws: &mut Workspace, op: Op) {
        match op {
            Op::Submit | Op::SubmitClaimed => {
                let id = ws.next_id(now());
                let mut state = JobState::Ready;
                if let Op::Submit = op {
                    ws.submit(job(&id, "hi"), now()).unwrap();
                } else {
                    let claimed = ws.submit_claimed(job(&id, "hi"), now()).unwrap();
                    self.claimed.insert(id.clone(), claimed);
                    state = JobState::Processing;
                }
                let attempts = u32::from(state == JobState::Processing);
                let answer = String::new();
                self.jobs.push((id, Some(Modelled { state, attempts, synced: false, answer })));
            }
            Op::Claim(n) => {
                let Some(id) = self.nth(n) else { return };
                let claimed = ws.claim(&id, now());
                let result = claimed.map(|claimed| drop(self.claimed.insert(id.clone(), claimed)));
                self.change(&id, JobState::Ready, result, |job| {
                    job.state = JobState::Processing;
                    job.attempts += 1;
                    job.answer.clear();
                });
            }
            Op::Append(n) => {
                let Some(claimed) = self.nth(n).and_then(|id| self.claimed.get_mut(&id)) else {
                    return;
                };
                claimed.append_partial("more ").unwrap();
                let id = claimed.id().clone();
                self.get(&id).as_mut().unwrap().answer.push_str("more ");
            }
            Op::Complete(n) | Op::Fail(n) | Op::Release(n, _) => {
                let Some(claimed) = self.nth(n).and_then(|id| self.claimed.remove(&id)) else {
                    return;
                };
                let id = claimed.id().clone();
                let meta = claimed.meta().clone();
                let job = self.get(&id).as_mut().unwrap();
                job.synced = false;
                match op {
                    Op::Complete(_) => {
                        // Sometimes the answer is not what was written as it grew.
                        if n % 2 == 0 {
                            job.answer.push_str("end");
                        }
                        job.state = JobState::Done;
                        ws.complete(claimed, &job.answer, &[], meta, now()).unwrap();
                    }
                    Op::Fail(_) => {
                        job.state = JobState::Failed;
                        let failure = Failure::new(ErrorCode::Inference, "no luck");
                        ws.fail(claimed, &failure, meta, now()).unwrap();
                    }
                    _ => {
                        let counted = matches!(op, Op::Release(_, true));
                        job.state = JobState::Ready;
                        job.attempts -= u32::from(!counted);
                        let attempt = if counted { Attempt::Counted } else { Attempt::Forgotten };
                        ws.release(claimed, attempt).unwrap();
                    }
                }
            }
            Op::Cancel(n) => {
                let Some(id) = self.nth(n) else { return };
                let result = ws.cancel(&id, now());
                self.change(&id, JobState::Ready, result, |job| job.state = JobState::Failed);
            }
            Op::Retry(n) => {
                let Some(id) = self.nth(n) else { return };
                let result = ws.retry(&id);
                self.change(&id, JobState::Failed, result, |job| {
                    job.state = JobState::Ready;
                    job.attempts = 0;
                });
            }
            Op::Remove(n) => {
                let Some(id) = self.nth(n) else { return };
                let job = self.get(&id).clone();
                match (job, ws.remove(&id)) {
                    (Some(job), Ok(())) => {
                        assert!(job.state.is_final());
                        *self.get(&id) = None;
                    }
                    (Some(job), Err(WorkspaceError::WrongState { state, .. })) => {
                        assert!(job.state == state && !state.is_final());
                    }
                    (None, Err(WorkspaceError::NotFound { .. })) => {}
                    other => panic!("{id}: {other:?}"),
                }
            }
            Op::Sync | Op::Crash => unreachable!("not an operation on a job"),
        }
    }

    /// Applies what recovery does.
    fn crash(&mut self) {
        self.claimed.clear();
        for (_, job) in &mut self.jobs {
            if let Some(job) = job
                && job.state == JobState::Processing
            {
                job.state = if job.attempts >= 3 { JobState::Failed } else { JobState::Ready };
            }
        }
    }

    fn check(&mut self, ws: &Workspace) {
        let reader = ws.reader();
        for (id, job) in &mut self.jobs {
            match job {
                None => assert!(reader.locate(id).is_err(), "{id}"),
                Some(job) => {
                    let record = reader.record(id).unwrap();
                    assert_eq!(record.state.place(), Some(job.state), "{id}");
                    assert_eq!(record.attempts, job.attempts, "{id}");
                    assert_eq!(record.meta.status.is_some(), job.state.is_final(), "{id}");
                    if job.state == JobState::Done {
                        assert_eq!(reader.result(id).unwrap(), job.answer.as_bytes(), "{id}");
                    }
                    if job.state == JobState::Processing {
                        let partial = reader.partial(id, 0).unwrap().bytes;
                        assert_eq!(partial, job.answer.as_bytes(), "{id}");
                    }
                    job.synced = true;
                }
            }
        }
        let known: usize = reader.counts().unwrap().values().sum();
        assert_eq!(known, self.jobs.iter().filter(|(_, job)| job.is_some()).count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_workspace_does_what_the_model_does(ops in ops()) {
        let temp = memory_dir();
        let place = Place::relaxed(temp.path());
        let (mut ws, _) = place.open().unwrap();
        let mut model = Model::default();
        for op in ops {
            match op {
                Op::Sync => {
                    let synced = ws.sync();
                    prop_assert!(synced.failed.is_empty(), "{:?}", synced.failed);
                    model.check(&ws);
                }
                Op::Crash => {
                    // What was not synced may be there or not. The tests with faults cover that.
                    prop_assert!(ws.sync().failed.is_empty());
                    model.crash();
                    drop(ws);
                    let recovered;
                    (ws, recovered) = place.open().unwrap();
                    prop_assert!(recovered.troubles.is_empty(), "{:?}", recovered.troubles);
                    model.check(&ws);
                }
                op => model.apply(&mut ws, op),
            }
        }
    }
}
