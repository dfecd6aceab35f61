//! What is done to a workspace.

use threadrunner_core::{ErrorCode, Failure, JobId, JobState};
use threadrunner_workspace::{Attempt, ClaimedJob, Workspace, WorkspaceError};

use crate::support::{job, now};
use crate::told::{Place, Told, output_of, prompt_of, result_of};

/// Something that is done to a workspace after an undisturbed preparation.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) prepare: fn(&Place, &mut Told),
    pub(crate) run: fn(&mut Workspace, &mut Told),
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "submit", prepare: nothing, run: submit_two },
    Scenario { name: "submit claimed", prepare: nothing, run: submit_claimed },
    Scenario { name: "submit with a hook", prepare: nothing, run: submit_hooked },
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
    Scenario { name: "a whole life", prepare: nothing, run: whole_life },
];

fn new_id(ws: &mut Workspace) -> JobId {
    ws.next_id(now())
}

/// Steps stop at the first error, as those of an attached client do.
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
    ws.complete(claimed, &result, &output_of(&id), meta, now()).map_err(|still| still.error)
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

/// A job that has begun its last attempt and never ended.
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

fn submit_hooked(ws: &mut Workspace, told: &mut Told) {
    for _ in 0..2 {
        let id = new_id(ws);
        told.known(&id).refused = true;
        if ws.expect_hook(&id).is_ok() && ws.submit(job(&id, &prompt_of(&id)), now()).is_ok() {
            told.known(&id).refused = false;
            told.known(&id).hooked = true;
        }
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

/// From submissions to a removal, by one owner: step by step, syncs overtake what the redo log
/// says.
fn whole_life(ws: &mut Workspace, told: &mut Told) {
    let mut run = || -> Step {
        let first = submit(ws, told)?;
        let second = submit(ws, told)?;
        sync(ws, told);
        let claimed = claim(ws, &first)?;
        sync(ws, told);
        let third = submit(ws, told)?;
        sync(ws, told);
        fail_claimed(ws, told, claimed)?;
        sync(ws, told);
        for id in [&second, &third] {
            told.known(id).ending.push(JobState::Failed);
            ws.cancel(id, now())?;
        }
        submit(ws, told)?;
        sync(ws, told);
        for id in [&first, &third] {
            told.known(id).removing = true;
            ws.remove(id)?;
        }
        sync(ws, told);
        submit(ws, told)?;
        sync(ws, told);
        Ok(())
    };
    let _ = run();
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
