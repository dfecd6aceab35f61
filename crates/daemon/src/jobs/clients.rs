//! What the owner does for clients: one arm of [`Owner::order`] for each [`Order`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use threadrunner_core::engine_protocol::Command;
use threadrunner_core::protocol::{ProcessList, RunningJob};
use threadrunner_core::{ErrorCode, Failure, JobId};
use threadrunner_home::WorkspaceSettings;

use super::fleet::Engine;
use super::hub::{Awaited, Ending, JobName, NewJob, Order, Serving};
use super::live::{Live, Stage};
use super::owner::{Owner, Stopping};
use super::view::ViewReader;
use crate::failures::refused_by_system;
use crate::opening::Opened;
use crate::store::{Store, Submission, WorkspaceId};

impl Owner {
    /// Carries out an order and sends the reply.
    pub(super) fn order(&mut self, order: Order) {
        // A reply that cannot be sent is one whose client has gone.
        match order {
            Order::SubmitAttached { job, awaited, reply } => {
                let submitted = self.submit(*job);
                let view = submitted.map(|id| self.watch(&id, awaited)).and_then(|view| {
                    view.ok_or_else(|| Failure::new(ErrorCode::Internal, "the job has no view"))
                });
                let _ = reply.send(view);
            }
            Order::SubmitDetached { job, reply } => match self.submit(*job) {
                Ok(id) => {
                    if let Some(live) = self.live.get_mut(&id) {
                        live.tell = Some(reply);
                    }
                }
                Err(failure) => {
                    let _ = reply.send(Err(failure));
                }
            },
            Order::Locate { id, reply } => {
                let _ = reply.send(self.live.get(&id).map(|live| live.workspace));
            }
            Order::Watch { job, awaited, reply } => {
                let view = self.named(&job).and_then(|id| self.watch(id, awaited));
                let _ = reply.send(view);
            }
            Order::Cancel { job, ending, reply } => {
                let view = self.named(&job).and_then(|id| self.watch(id, Awaited::End));
                if view.is_some() {
                    self.end_early(&job.id, ending);
                }
                let _ = reply.send(view);
            }
            Order::Position { job, reply } => {
                let _ = reply.send(self.named(&job).and_then(|id| self.position(id)));
            }
            Order::Changes { reply } => {
                let _ = reply.send((self.live_count(), self.changes.subscribe()));
            }
            Order::Removed { workspace, ids, reply } => {
                for id in ids {
                    self.tell_change(workspace, &id, None);
                }
                let _ = reply.send(());
            }
            Order::ForgetState { state, reply } => {
                self.disk.forget_state(state, reply);
            }
            Order::WaitsFor { ids, reply } => {
                let waits_for = |id| self.dependencies.waits_for(id).into_iter().flatten().cloned();
                let _ = reply.send(ids.iter().map(|id| waits_for(id).collect()).collect());
            }
            Order::RunningModels { reply } => {
                let _ =
                    reply.send(self.running().map(|(id, it, _)| (id, it.model.name())).collect());
            }
            Order::Status { reply } => {
                let _ = reply.send((self.list(), self.stopping.is_some()));
            }
            Order::Load { model, pin, keep_alive, reply } => {
                let _ = reply.send(self.load(*model, pin, keep_alive));
            }
            Order::Unload { which, reply } => {
                let _ = reply.send(self.unload(&which));
            }
            Order::Serve { settings, opened, before, reply } => {
                let _ = reply.send(self.serve(settings, *opened, before));
            }
            Order::Stop { now, reply } => {
                self.stop(now);
                let _ = reply.send(());
            }
        }
    }

    /// The id of a job, if it is live and in the named workspace.
    fn named<'a>(&self, job: &'a JobName) -> Option<&'a JobId> {
        let live = self.live.get(&job.id)?;
        (live.workspace == job.workspace).then_some(&job.id)
    }

    /// Starts serving another workspace, instead of the abandoned one `before` if there is one.
    fn serve(
        &mut self,
        settings: Arc<WorkspaceSettings>,
        opened: Opened,
        before: Option<WorkspaceId>,
    ) -> Result<Serving, Failure> {
        let ending = || Failure::new(ErrorCode::ShuttingDown, "the daemon is ending");
        if self.stopping.is_some() {
            return Err(ending());
        }
        let events = self.inbox.for_stores().ok_or_else(ending)?;
        let Opened { workspace, ready, .. } = opened;
        let id = self.stores.next_id();
        let (store, thread) = Store::start(id, settings, workspace, ready, events)
            .map_err(|error| refused_by_system("start a workspace's thread", &error))?;
        self.ids.after(store.newest_id());
        let archive = store.archive();
        self.stores.push(store);
        if let Some(before) = before {
            self.stores[before].retire();
        }
        Ok((id, archive, thread))
    }

    /// Checks that another job may be queued: the daemon is not stopping and the queue is not full.
    fn admit(&self) -> Result<(), Failure> {
        if self.stopping.is_some() {
            return Err(Failure::new(ErrorCode::ShuttingDown, "the daemon is ending"));
        }
        let limit = self.config.max_queue as usize;
        // Due hooks count like jobs.
        let jobs = self.live.len() + self.hooks.due();
        if jobs >= limit {
            return Err(Failure::new(
                ErrorCode::Overloaded,
                format!("the queue is full: {jobs} jobs, and max_queue is {limit}"),
            )
            .hint("try again later, or raise max_queue in config.toml"));
        }
        Ok(())
    }

    fn submit(&mut self, job: NewJob) -> Result<JobId, Failure> {
        self.admit()?;
        let now = Instant::now();
        let NewJob { id: chosen, workspace, prompt, model: found, spec, meta } = job;
        let model = found.model.clone();
        // What is not known yet is checked when the job begins.
        self.fleet.takes(&model, &spec)?;
        self.models.saw(found, now);
        if let Some(id) = &chosen {
            if self.live.contains_key(id) {
                let message = format!("job {id} already exists and is queued or running");
                return Err(Failure::new(ErrorCode::JobExists, message));
            }
            self.ids.after(id);
        }
        let is_chosen = chosen.is_some();
        let id = chosen.unwrap_or_else(|| self.ids.next_at(SystemTime::now()));
        let claim = spec.after.is_empty() && self.may_begin_at_once(&model, spec.priority)?;
        let deadline = spec.timeout_s.map(|seconds| now + bounded(seconds));
        let live = Live {
            workspace,
            model,
            priority: spec.priority,
            tag: meta.tags.first().map(|tag| tag.as_str().into()),
            attached: spec.attached,
            followed: false,
            submitted: now,
            deadline,
            durable: false,
            tell: None,
            view: None,
            ending: None,
            stage: if claim { Stage::Claiming } else { Stage::Storing },
        };
        if let Some(deadline) = deadline {
            self.times.deadlines.insert((deadline, id.clone()));
        }
        if claim {
            self.fleet.begin(&live.model, id.clone());
        }
        self.live.insert(id.clone(), live);
        let submission = Submission { id: id.clone(), is_chosen, prompt, spec, meta, claim };
        self.stores[workspace].submit(submission);
        Ok(id)
    }

    fn watch(&mut self, id: &JobId, awaited: Awaited) -> Option<ViewReader> {
        let live = self.live.get_mut(id)?;
        let reader = live.watch(id);
        if awaited == Awaited::Text && !live.followed {
            live.followed = true;
            if let Stage::Running(run) = &live.stage
                && let Some(engine) = self.fleet.engine(&live.model).map(Engine::id)
                && self.fleet.ready(&live.model).is_some_and(|ready| ready.knows_stream())
            {
                // If this fails, the process has exited, and its task reports that next.
                self.processes.send(engine, Command::Stream { id: run.request });
            }
        }
        if matches!(live.stage, Stage::Held) {
            self.tell_held(id);
            return Some(reader);
        }
        if matches!(live.stage, Stage::Queued(_) | Stage::Storing) {
            self.places.watch(id);
            self.tell_place(id);
        }
        Some(reader)
    }

    pub(super) fn position(&self, id: &JobId) -> Option<u32> {
        let live = self.live.get(id)?;
        match live.stage {
            Stage::Queued(ticket) => self.queue.place(live.lane(), ticket),
            _ => None,
        }
    }

    /// Ends a job before it is done. If the workspace's thread is moving it, the end follows after
    /// the move.
    pub(super) fn end_early(&mut self, id: &JobId, ending: Ending) {
        let Some(live) = self.live.get_mut(id) else { return };
        match &live.stage {
            Stage::Storing | Stage::Claiming | Stage::Releasing => {
                live.ending.get_or_insert(ending);
            }
            Stage::Ending(_) => {}
            Stage::Resolving => self.fail_queued(id, ending.failure()),
            Stage::Held => {
                self.dependencies.forget(id);
                self.fail_queued(id, ending.failure());
            }
            Stage::Queued(ticket) => {
                self.queue.remove(live.lane(), *ticket);
                self.fail_queued(id, ending.failure());
            }
            Stage::Running(_) => {
                self.cancel_request(id);
                self.fail_claimed(id, ending.failure());
            }
            Stage::Claimed(_) => self.fail_claimed(id, ending.failure()),
        }
    }

    /// Tells a job's engine to cancel its request. The engine frees the slot within one step;
    /// the owner does not wait for that, but ends an engine that goes on.
    pub(super) fn cancel_request(&mut self, id: &JobId) {
        if let Some(live) = self.live.get(id)
            && let Stage::Running(run) = &live.stage
            && let Some(engine) = self.fleet.engine(&live.model)
        {
            self.processes.send(engine.id(), Command::Cancel { id: run.request });
            self.requests.cancel(run.request, Instant::now());
        }
    }

    fn list(&mut self) -> ProcessList {
        let now = Instant::now();
        let (memory_used, memory_budget) = self.budget.in_use(now, &mut self.fleet);
        let models = self.fleet.describe(now);
        let mut running: Vec<_> = self
            .running()
            .map(|(id, live, since)| RunningJob {
                job: id,
                model: live.model.name(),
                attached: live.attached,
                running_s: (now - since).as_secs_f64(),
                text_bytes: live.view.as_ref().map_or(0, |view| view.borrow().text.len() as u64),
            })
            .collect();
        running.sort_by(|a, b| a.job.cmp(&b.job));
        let queued = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        let held = u32::try_from(self.dependencies.len()).unwrap_or(u32::MAX);
        ProcessList { models, running, queued, held, memory_budget, memory_used }
    }

    /// The running jobs, and since when each runs. Goes through the engines, which have few jobs: a
    /// status must not walk a long queue.
    fn running(&self) -> impl Iterator<Item = (JobId, &Live, Instant)> {
        self.fleet.all().flat_map(Engine::jobs).filter_map(|id| {
            let live = self.live.get(&id)?;
            let since = match &live.stage {
                Stage::Running(run) => run.since,
                Stage::Claimed(work) => work.since,
                Stage::Claiming => live.submitted,
                _ => return None,
            };
            Some((id, live, since))
        })
    }

    /// Stops taking new work. Running jobs get the grace time; `now`, or a second order, ends it at
    /// once.
    fn stop(&mut self, now: bool) {
        let grace = if now || self.stopping.is_some() { Duration::ZERO } else { self.config.grace };
        tracing::info!(grace_s = grace.as_secs_f64(), "stopping");
        let given_up = self.stopping.is_some_and(|stopping| stopping.given_up);
        self.stopping = Some(Stopping { at: Instant::now() + grace, given_up });
        self.hooks.stop();
        // Queued jobs stay on disk for the next daemon. Tell their readers now.
        for live in self.live.values_mut() {
            if live.stage.is_at_rest() {
                live.keep_for_the_next_daemon();
            }
        }
    }

    /// Moves running jobs back to `ready`, for the next daemon.
    pub(super) fn give_up_running(&mut self) {
        if let Some(stopping) = &mut self.stopping {
            stopping.given_up = true;
        }
        self.hooks.give_up();
        let running: Vec<_> = self
            .live
            .iter()
            .filter(|(_, live)| live.in_engine())
            .map(|(id, _)| id.clone())
            .collect();
        for id in running {
            let Some(live) = self.live.get_mut(&id) else { continue };
            if matches!(live.stage, Stage::Claiming) {
                // Its claim is under way; it is released when the claim arrives.
                continue;
            }
            live.stage = Stage::Releasing;
            live.keep_for_the_next_daemon();
            self.stores[live.workspace].release(id, false);
        }
    }
}

/// A client's seconds as a duration that is safe to add to an `Instant`: at most a year, which is
/// as good as forever.
pub(super) fn bounded(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 31_536_000.0))
}
