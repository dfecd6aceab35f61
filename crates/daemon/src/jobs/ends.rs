//! What a job's end sets off: held jobs that waited for it, and its hook.
//!
//! Jobs that wait for others stay in `ready` on disk, and out of the queue.

use std::time::Instant;

use threadrunner_core::{ErrorCode, Failure, HookOutcome, JobId, JobStatus};
use threadrunner_workspace::Hook;

use super::dependencies::{Released, Verdict};
use super::live::{Live, Stage};
use super::owner::Owner;
use super::view::{End, Phase};
use crate::hooks::PlacedJob;
use crate::store::{After, Standing};

impl Owner {
    /// Moves on a job in `ready`: queues it, holds it, or fails it.
    pub(super) fn hold_or_enqueue(&mut self, id: &JobId, after: After) {
        match self.dependencies.hold(id, after) {
            Verdict::Free => self.enqueue(id, false),
            Verdict::Broken(why) => self.fail_queued(id, why.failure()),
            Verdict::Held => self.held(id),
        }
    }

    fn held(&mut self, id: &JobId) {
        let Some(live) = self.live.get_mut(id) else { return };
        live.stage = Stage::Held;
        // Submitted to begin at once, it already has a slot, but an earlier turn of its session is
        // still open.
        self.fleet.end(&live.model, id, Instant::now());
        if let Some(ending) = live.ending {
            self.dependencies.forget(id);
            self.fail_queued(id, ending.failure());
            return;
        }
        if self.stopping.is_some() {
            live.keep_for_the_next_daemon();
        }
        let workspace = live.workspace;
        self.tell_change(workspace, id, Some(JobStatus::Queued));
        self.tell_held(id);
    }

    /// Tells the readers of a held job what it waits for.
    pub(super) fn tell_held(&self, id: &JobId) {
        let (Some(live), Some(on)) = (self.live.get(id), self.dependencies.waits_for(id)) else {
            return;
        };
        if let Some(first) = on.first() {
            let others = u32::try_from(on.len() - 1).unwrap_or(u32::MAX);
            live.set_phase(Phase::Held { on: first.clone(), others });
        }
    }

    /// Records how a job ended, and moves on the jobs that waited for it.
    pub(super) fn settle(&mut self, id: &JobId, how: Standing) {
        let Released { free, broken, held } = self.dependencies.ended(id, how);
        for id in free {
            self.enqueue(&id, false);
        }
        for (id, why) in broken {
            self.fail_queued(&id, why.failure());
        }
        for id in held {
            self.tell_held(&id);
        }
    }

    /// Settles a job that is no longer live but did not end as it should. Unless it is missing,
    /// asks its workspace how it stands.
    pub(super) fn settle_lost(&mut self, id: &JobId, failure: &Failure) {
        if failure.code == ErrorCode::JobNotFound {
            self.settle(id, Standing::Missing);
        } else {
            self.ask_standing(id);
        }
    }

    /// Asks how a job stands, in the workspace of a job that waits for it: jobs wait only for jobs
    /// of their own workspace.
    fn ask_standing(&self, id: &JobId) {
        let waiter = self.dependencies.waiter(id).and_then(|waiter| self.live.get(waiter));
        if let Some(waiter) = waiter {
            self.stores[waiter.workspace].ask_standing(id.clone());
        }
    }

    /// Notes that a job with a hook has ended, and runs due hooks.
    pub(super) fn hook_due(&mut self, job: PlacedJob) {
        self.hooks.job_ended(job);
        self.begin_hooks();
    }

    fn begin_hooks(&mut self) {
        while let Some((workspace, id)) = self.hooks.next() {
            self.stores[workspace].begin_hook(id);
        }
    }

    /// Runs a hook that the workspace's thread has prepared.
    pub(super) fn hook_ready(&mut self, job: PlacedJob, hook: Result<Option<Hook>, Failure>) {
        match hook {
            // While the daemon stops, the hook is left to the next one.
            Ok(Some(hook)) if self.stopping.is_none() => return self.hooks.run(job, hook),
            Ok(_) => {}
            Err(failure) => tracing::warn!(job = %job.1, %failure, "cannot run the job's hook"),
        }
        self.hooks.done(&job);
        self.begin_hooks();
    }

    /// Records how a hook ended. `None` means that it was given up and runs again later.
    pub(super) fn hook_ended(&mut self, job: PlacedJob, outcome: Option<HookOutcome>) {
        if self.hooks.done(&job)
            && let Some(outcome) = outcome
        {
            let (workspace, id) = job;
            tracing::info!(job = %id, ?outcome, "the job's hook ended");
            self.stores[workspace].end_hook(id, outcome);
        }
        self.begin_hooks();
    }

    /// Asks about jobs that held jobs wait for but that are not live: another program moved them,
    /// or they could not be read before.
    pub(super) fn ask_about_strangers(&self) {
        for id in self.dependencies.waited_for().filter(|id| !self.live.contains_key(id)) {
            self.ask_standing(id);
        }
    }
}

/// The standing of a job whose end is being written.
pub(super) fn standing_of(live: &Live) -> Standing {
    match &live.stage {
        Stage::Ending(End::Done(_)) => Standing::Done,
        Stage::Ending(End::Failed(failure)) if failure.code == ErrorCode::Canceled => {
            Standing::Canceled
        }
        _ => Standing::Failed,
    }
}
