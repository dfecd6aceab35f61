//! What one job's end means for others and for the programs that wait for it. Jobs that wait are
//! held on disk in `ready`, and out of the queue.

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
    /// Goes on with a job that is in `ready`: it begins, waits for others, or fails.
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
        // It was to begin at once, before another turn of its session was known.
        if let Some(engine) = self.engines.get_mut(&live.model) {
            engine.end(id, Instant::now());
        }
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

    /// Tells those who watch a held job what it waits for.
    pub(super) fn tell_held(&self, id: &JobId) {
        let (Some(live), Some(on)) = (self.live.get(id), self.dependencies.waits_for(id)) else {
            return;
        };
        if let Some(first) = on.first() {
            let others = u32::try_from(on.len() - 1).unwrap_or(u32::MAX);
            live.set_phase(Phase::Held { on: first.clone(), others });
        }
    }

    /// Takes note of how a job ended, for those that wait for it.
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

    /// Takes note that a live job is no more, and has not ended as it should.
    pub(super) fn settle_lost(&mut self, id: &JobId, failure: &Failure) {
        if failure.code == ErrorCode::JobNotFound {
            self.settle(id, Standing::Missing);
        } else {
            self.ask_standing(id);
        }
    }

    /// Asks how a job stands, in the workspace of those that wait for it: they wait for none of
    /// another's.
    fn ask_standing(&self, id: &JobId) {
        let waiter = self.dependencies.waiter(id).and_then(|waiter| self.live.get(waiter));
        if let Some(waiter) = waiter {
            self.stores[waiter.workspace].ask_standing(id.clone());
        }
    }

    /// A job with a hook has ended.
    pub(super) fn hook_due(&mut self, job: PlacedJob) {
        self.hooks.job_ended(job);
        self.begin_hooks();
    }

    fn begin_hooks(&mut self) {
        while let Some((workspace, id)) = self.hooks.next() {
            self.stores[workspace].begin_hook(id);
        }
    }

    /// The workspace has prepared what a hook needs.
    pub(super) fn hook_ready(&mut self, job: PlacedJob, hook: Result<Option<Hook>, Failure>) {
        match hook {
            // With the daemon ending, it is left to the next one.
            Ok(Some(hook)) if self.stopping.is_none() => return self.hooks.run(job, hook),
            Ok(_) => {}
            Err(failure) => tracing::warn!(job = %job.1, %failure, "its hook is not run"),
        }
        self.hooks.done(&job);
        self.begin_hooks();
    }

    /// A hook has ended, or was given up.
    pub(super) fn hook_ended(&mut self, job: PlacedJob, outcome: Option<HookOutcome>) {
        if self.hooks.done(&job)
            && let Some(outcome) = outcome
        {
            let (workspace, id) = job;
            tracing::info!(job = %id, ?outcome, "its hook has ended");
            self.stores[workspace].end_hook(id, outcome);
        }
        self.begin_hooks();
    }

    /// Asks about jobs that are waited for and that nobody here knows of: somebody moved them by
    /// hand, or they could not be read before.
    pub(super) fn ask_about_strangers(&self) {
        for id in self.dependencies.waited_for().filter(|id| !self.live.contains_key(id)) {
            self.ask_standing(id);
        }
    }
}

/// How a job that is ending stands.
pub(super) fn standing_of(live: &Live) -> Standing {
    match &live.stage {
        Stage::Ending(End::Done(_)) => Standing::Done,
        Stage::Ending(End::Failed(failure)) if failure.code == ErrorCode::Canceled => {
            Standing::Canceled
        }
        _ => Standing::Failed,
    }
}
