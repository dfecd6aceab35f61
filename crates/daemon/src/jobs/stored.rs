//! Handles what the workspaces' threads tell the owner.

use std::time::{Duration, Instant};

use threadrunner_core::{
    BackendKind, ErrorCode, Failure, JobId, JobMeta, JobStatus, ModelRef, Priority,
};

use super::clients::bounded;
use super::ends::standing_of;
use super::live::{Live, Stage, Work};
use super::owner::Owner;
use super::view::{End, Phase};
use crate::store::WorkspaceId;
use crate::store::{Claim, Found, Standing, StoreEvent, Written};

/// How long to wait before claiming again after a claim that failed for lack of a resource, such as
/// disk space.
const SHORT_PAUSE: Duration = Duration::from_secs(2);

impl Owner {
    /// Handles what a workspace's thread has done.
    pub(super) fn stored(&mut self, workspace: WorkspaceId, event: StoreEvent) {
        let live = event.job().and_then(|id| self.live.get(id));
        if live.is_some_and(|live| live.workspace != workspace) {
            self.twice(workspace, event);
            return;
        }
        match event {
            StoreEvent::Submitted { id, result: Ok(Written::Ready(after)) } => {
                self.hold_or_enqueue(&id, after);
            }
            StoreEvent::Submitted { id, result: Ok(Written::Claimed(claim)) } => {
                self.claimed(&id, *claim);
            }
            StoreEvent::Submitted { id, result: Err(failure) }
                if failure.code == ErrorCode::JobExists =>
            {
                self.refuse(&id, &failure);
                // The job that has this id may have been found meanwhile, and passed over because
                // of this one.
                self.stores[workspace].look(id);
            }
            StoreEvent::Submitted { id, result: Err(failure) } => self.lost(&id, failure),
            StoreEvent::Durable { id } => self.durable(&id),
            StoreEvent::Claimed { id, result: Ok(claim) } => self.claimed(&id, *claim),
            StoreEvent::Claimed { id, result: Err(failure) } => self.lost(&id, failure),
            StoreEvent::NotNow { id, failure } => self.claim_later(&id, &failure),
            StoreEvent::Released { id, result: Ok(()) } => self.enqueue(&id, true),
            StoreEvent::Released { id, result: Err(failure) } => self.lost(&id, failure),
            StoreEvent::Ended { id, result } => self.ended(&id, result),
            StoreEvent::Lost { id, failure } => {
                self.cancel_request(&id);
                self.lost(&id, failure);
            }
            // A malformed job that is not live: nothing else settles it here.
            StoreEvent::Refused { id } => self.settle(&id, Standing::Failed),
            StoreEvent::Stands { how: Standing::Open, .. } => {}
            StoreEvent::Stands { id, how } => self.settle(&id, how),
            StoreEvent::HookDue { id } => self.hook_due((workspace, id)),
            StoreEvent::HookReady { id, result } => self.hook_ready((workspace, id), result),
            StoreEvent::HookNoted => {}
            StoreEvent::Listed { ids } => {
                let store = &self.stores[workspace];
                ids.into_iter()
                    .filter(|id| !self.live.contains_key(id))
                    .for_each(|id| store.look(id));
            }
            StoreEvent::Found { id, found } => self.found(workspace, id, found),
        }
    }

    /// Fails a job that another program submitted under the id of a job that is live in another
    /// workspace: the two could not be told apart. It may run if it is retried later.
    fn twice(&mut self, workspace: WorkspaceId, event: StoreEvent) {
        if let StoreEvent::Found { id, .. } = event {
            let failure = Failure::new(
                ErrorCode::WrongState,
                format!("a job with the id {id} is queued or running in another workspace"),
            )
            .hint("retry it when that one has ended, or give it another id");
            self.stores[workspace].fail_queued(id, failure);
        }
    }

    /// Queues a job that is now in `ready`; ahead of the others if it had begun.
    pub(super) fn enqueue(&mut self, id: &JobId, begun: bool) {
        let Some(live) = self.live.get_mut(id) else { return };
        self.fleet.end(&live.model, id, Instant::now());
        if let Some(ending) = live.ending {
            self.fail_queued(id, ending.failure());
            return;
        }
        if self.stopping.is_some() {
            live.keep_for_the_next_daemon();
        }
        let ticket = if begun {
            self.queue.put_back(id.clone(), live.lane())
        } else {
            self.queue.push(id.clone(), live.lane())
        };
        live.stage = Stage::Queued(ticket);
        let workspace = live.workspace;
        if live.view.is_some() {
            self.places.watch(id);
        }
        self.tell_change(workspace, id, Some(JobStatus::Queued));
    }

    fn durable(&mut self, id: &JobId) {
        let Some(live) = self.live.get_mut(id) else { return };
        live.durable = true;
        if let Some(view) = &live.view {
            view.send_modify(|view| view.durable = true);
        }
        if let Some(tell) = live.tell.take() {
            // The job is kept even if its client is gone.
            let _ = tell.send(Ok(id.clone()));
        }
    }

    fn claimed(&mut self, id: &JobId, claim: Claim) {
        let Some(live) = self.live.get_mut(id) else { return };
        let Claim { prompt, mut spec, meta, state, unfit } = claim;
        if spec.model.is_none() {
            // Submitted by another program: what it leaves open is not filled in yet.
            self.stores[live.workspace].settings().fill_in(&mut spec);
        }
        spec.priority = live.priority;
        let work = Work { prompt, spec, meta, state, since: Instant::now() };
        live.stage = Stage::Claimed(Box::new(work));
        let (workspace, ending) = (live.workspace, live.ending);
        self.tell_change(workspace, id, Some(JobStatus::Running));
        if let Some(ending) = ending {
            self.fail_claimed(id, ending.failure());
        } else if let Some(failure) = unfit {
            self.fail_claimed(id, failure);
        } else if self.stopping.is_some_and(|stopping| stopping.given_up) {
            self.give_up_running();
        } else {
            self.begin_or_wait(id);
        }
    }

    /// Puts back a job that could not be claimed for lack of a resource, and pauses all claims: the
    /// others would fail as well. The job keeps its place.
    fn claim_later(&mut self, id: &JobId, failure: &Failure) {
        tracing::error!(job = %id, %failure, "queued jobs wait");
        self.times.short = Some(Instant::now() + SHORT_PAUSE);
        self.enqueue(id, true);
    }

    fn begin_or_wait(&mut self, id: &JobId) {
        let Some(live) = self.live.get(id) else { return };
        let model = live.model.clone();
        match self.try_engine(&model) {
            Err(failure) if failure.code != ErrorCode::Overloaded => {
                self.fail_claimed(id, failure);
                return;
            }
            Ok(_) | Err(_) => {}
        }
        self.fleet.begin(&model, id.clone());
        if self.fleet.ready(&model).is_some() {
            self.start(id);
        } else if let Some(loading) = self.fleet.loading(&model) {
            let fraction = loading.fraction();
            if let Some(live) = self.live.get(id) {
                live.set_phase(Phase::Loading { model: model.name(), fraction });
            }
        } else if let Some(live) = self.live.get_mut(id) {
            // Its engine is gone, and there is no room for another. It waits for room in the queue.
            live.stage = Stage::Releasing;
            self.stores[live.workspace].release(id.clone(), false);
        }
    }

    /// Forgets a job that could not be written, claimed or put back, and tells those who wait why.
    fn lost(&mut self, id: &JobId, failure: Failure) {
        tracing::error!(job = %id, %failure, "the workspace refused a move");
        if let Some(workspace) = self.refuse(id, &failure) {
            self.tell_change(workspace, id, None);
        }
        self.settle_lost(id, &failure);
    }

    /// Forgets a job that the workspace did not accept, and tells its clients why.
    fn refuse(&mut self, id: &JobId, failure: &Failure) -> Option<WorkspaceId> {
        let live = self.forget(id)?;
        if let Some(view) = &live.view {
            view.send_modify(|view| view.end = Some(End::Failed(failure.clone())));
        }
        if let Some(tell) = live.tell {
            let _ = tell.send(Err(failure.clone()));
        }
        Some(live.workspace)
    }

    fn ended(&mut self, id: &JobId, result: Result<(), Failure>) {
        let live = self.forget(id);
        match (&live, &result) {
            (_, Err(failure)) => self.settle_lost(id, failure),
            (Some(live), Ok(())) => self.settle(id, standing_of(live)),
            // A job that was never live can only have failed.
            (None, Ok(())) => self.settle(id, Standing::Failed),
        }
        let Some(live) = live else { return };
        let state = match &live.stage {
            Stage::Ending(End::Done(_)) => JobStatus::Done,
            Stage::Ending(End::Failed(failure)) if failure.code == ErrorCode::Canceled => {
                JobStatus::Canceled
            }
            _ => JobStatus::Failed,
        };
        self.tell_change(live.workspace, id, Some(state));
        let Some(view) = &live.view else { return };
        let end = match (live.stage, result) {
            (Stage::Ending(end), Ok(())) => end,
            (_, Err(failure)) => {
                tracing::error!(job = %id, %failure, "cannot write the job's end");
                End::Failed(failure)
            }
            (stage, Ok(())) => {
                tracing::error!(job = %id, ?stage, "a job ended that was not ending");
                return;
            }
        };
        view.send_modify(|view| {
            view.durable = true;
            view.end = Some(end);
        });
    }

    /// Takes in a job that another program, or an earlier daemon, left in `ready`.
    fn found(&mut self, workspace: WorkspaceId, id: JobId, found: Found) {
        if self.live.contains_key(&id) {
            return;
        }
        let settings = self.stores[workspace].settings();
        // A job without a model comes from another program. Its `normal` may only mean that it set
        // no priority, so the workspace's applies.
        let usual = settings.priority.filter(|_| found.model.is_none());
        let priority = match found.priority {
            Priority::Normal => usual.unwrap_or_default(),
            said => said,
        };
        // A job without a model gets its workspace's, once that is looked up.
        let resolved = found.model.is_some();
        let unknown = ModelRef { backend: BackendKind::Unknown, path: None, draft: None };
        let model = found.model.unwrap_or(unknown);
        // The job may come from after a change of the model's files.
        self.models.doubt(&model);
        self.ids.after(&id);
        let now = Instant::now();
        let live = Live {
            workspace,
            model,
            priority,
            tag: found.tag,
            attached: false,
            followed: false,
            submitted: now,
            deadline: found.time_left_s.map(|left| now + bounded(left)),
            durable: true,
            tell: None,
            view: None,
            ending: None,
            stage: if resolved { Stage::Storing } else { Stage::Resolving },
        };
        if let Some(deadline) = live.deadline {
            self.times.deadlines.insert((deadline, id.clone()));
        }
        self.live.insert(id.clone(), live);
        if resolved {
            self.hold_or_enqueue(&id, found.after);
        } else {
            self.resolve_later(workspace, id, found.after);
        }
    }

    /// Fails a job that is in `ready` and out of the queue.
    pub(super) fn fail_queued(&mut self, id: &JobId, failure: Failure) {
        if let Some(live) = self.live.get_mut(id) {
            live.stage = Stage::Ending(End::Failed(failure.clone()));
            self.places.forget(id);
            self.stores[live.workspace].fail_queued(id.clone(), failure);
        }
    }

    /// Fails a job that is in `processing`.
    pub(super) fn fail_claimed(&mut self, id: &JobId, failure: Failure) {
        let Some(live) = self.live.get_mut(id) else { return };
        let end = Stage::Ending(End::Failed(failure.clone()));
        let (mut meta, since, flushed): (JobMeta, _, _) =
            match std::mem::replace(&mut live.stage, end) {
                Stage::Claimed(work) => {
                    self.fleet.end(&live.model, id, Instant::now());
                    (work.meta, work.since, 0)
                }
                Stage::Running(run) => (run.meta, run.since, run.flushed),
                stage => {
                    live.stage = stage;
                    return;
                }
            };
        meta.duration_s = Some(since.elapsed().as_secs_f64());
        meta.set_model(self.fleet.id_of(&live.model));
        let rest = live.view.as_ref().map(|view| view.borrow().text[flushed..].to_owned());
        self.unflushed.jobs.remove(id);
        self.stores[live.workspace].fail(id.clone(), failure, rest.unwrap_or_default(), meta);
    }

    fn forget(&mut self, id: &JobId) -> Option<Live> {
        let live = self.live.remove(id)?;
        self.places.forget(id);
        self.unflushed.jobs.remove(id);
        if let Some(deadline) = live.deadline {
            self.times.deadlines.remove(&(deadline, id.clone()));
        }
        // A canceled request keeps its slot until the engine says that the slot is free.
        if !self.requests.has(id) {
            self.fleet.end(&live.model, id, Instant::now());
        }
        Some(live)
    }
}
