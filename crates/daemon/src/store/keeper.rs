//! The thread's own side: prepare, sync, tell.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use threadrunner_core::{ErrorCode, Failure, JobId, JobMeta, JobState};
use threadrunner_workspace::{
    Attempt, ClaimedJob, NewJob, Reader, StillClaimed, Workspace, WorkspaceError,
};
use tokio::sync::mpsc::Sender;

use super::expand::expand;
use super::needs::Needs;
use super::standing::standing;
use super::{After, Claim, Found, Operation, Reply, Standing, StoreEvent, Submission, Written};

/// The most operations that share a sync.
const GROUP: usize = 256;
/// How many of the jobs found at the start are looked at between two groups.
const BACKLOG_STEP: usize = 32;
/// When to look again at a directory that has no prompt yet.
const FILLED_AFTER: Duration = Duration::from_secs(1);
/// When to try again to end a job whose end could not be written.
const RECOVERED_AFTER: Duration = Duration::from_secs(2);
/// So many jobs that cannot be looked at are told of in the log.
const COMPLAINTS: usize = 1000;
/// A directory that changed so short a time ago may change again without its time telling.
const AT_REST_AFTER: Duration = Duration::from_secs(2);

/// Owns the workspace.
pub(super) struct Keeper {
    pub(super) workspace: Workspace,
    events: Sender<StoreEvent>,
    claimed: HashMap<JobId, ClaimedJob>,
    /// Jobs that were in `ready` at the start and have not been looked at.
    backlog: VecDeque<JobId>,
    /// Directories that somebody fills in `ready` itself, and when they are looked at again.
    unfinished: VecDeque<(Instant, JobId)>,
    /// Jobs that are in `processing` and held by nobody, because their end could not be written,
    /// and when that is tried again.
    unended: VecDeque<(Instant, JobId)>,
    /// Jobs in `ready` that cannot be looked at, and of which the log says so.
    complained: HashSet<JobId>,
    /// When `ready` had changed last when it was listed, if it was at rest then.
    listed: Option<SystemTime>,
    /// Jobs that this daemon put into `ready`, until the watcher has told of them.
    own: HashSet<JobId>,
    needs: Needs,
    /// Jobs with a hook that has not run.
    pub(super) hooked: HashSet<JobId>,
    /// What is to be told when the group is synced.
    pending: Vec<(JobId, Pending)>,
    /// What is removed, as far as the sync agrees, and who is told.
    pending_removals: Vec<(Vec<JobId>, Reply<Vec<JobId>>)>,
    /// Jobs whose standing is to be told then.
    asked_about: Vec<JobId>,
}

/// What an operation of the group will have come to.
enum Pending {
    Queued { after: Vec<JobId>, any: bool },
    Begun,
    BeginsThen(Box<Claim>),
    Claimed(Box<Claim>),
    Released,
    Refused,
    Ended,
    Recovered,
    Answer { reply: Reply<()>, then_look: bool },
}

impl Keeper {
    pub(super) fn new(workspace: Workspace, ready: Vec<JobId>, events: Sender<StoreEvent>) -> Self {
        Self {
            workspace,
            events,
            claimed: HashMap::new(),
            backlog: ready.into(),
            unfinished: VecDeque::new(),
            unended: VecDeque::new(),
            complained: HashSet::new(),
            listed: None,
            own: HashSet::new(),
            needs: Needs::default(),
            hooked: HashSet::new(),
            pending: Vec::new(),
            pending_removals: Vec::new(),
            asked_about: Vec::new(),
        }
    }

    /// Works until nobody has anything to ask any more.
    pub(super) fn run(mut self, operations: &Receiver<Operation>) {
        self.tell_hooks_due();
        loop {
            let first = match self.pause() {
                None => operations.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(pause) => operations.recv_timeout(pause),
            };
            let first = match first {
                Ok(operation) => Some(operation),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // What comes while the group before is synced makes the next one.
            let group = first.into_iter().chain(operations.try_iter()).take(GROUP);
            for operation in group {
                self.prepare(operation, SystemTime::now());
            }
            let now = Instant::now();
            while let Some((_, id)) = self.unfinished.pop_front_if(|(due, _)| *due <= now) {
                self.backlog.push_back(id);
            }
            while let Some((_, id)) = self.unended.pop_front_if(|(due, _)| *due <= now) {
                self.recover(id);
            }
            for _ in 0..BACKLOG_STEP {
                let Some(id) = self.backlog.pop_front() else { break };
                self.look(id);
            }
            self.sync();
        }
    }

    /// How long to wait for an operation; `None` when there is nothing else to do.
    fn pause(&self) -> Option<Duration> {
        if !self.backlog.is_empty() {
            return Some(Duration::ZERO);
        }
        let due = [self.unfinished.front(), self.unended.front()];
        let due = due.into_iter().flatten().map(|(due, _)| *due).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    pub(super) fn tell(&self, event: StoreEvent) {
        // An owner that is gone has nobody to be told.
        let _ = self.events.blocking_send(event);
    }

    fn prepare(&mut self, operation: Operation, now: SystemTime) {
        match operation {
            Operation::Submit(submission) => self.submit(*submission, now),
            Operation::Claim(id) => match self.workspace.claim(&id, now) {
                Ok(job) => {
                    let claim = Box::new(self.claim_of(&job));
                    self.claimed.insert(id.clone(), job);
                    self.pending.push((id, Pending::Claimed(claim)));
                }
                Err(error) => self.not_claimed_for(id, error),
            },
            Operation::Append { id, text } => self.append(&id, &text),
            Operation::Complete { id, text, meta } => self.complete(id, &text, *meta, now),
            Operation::Fail { id, failure, rest, meta } => {
                self.append(&id, &rest);
                self.fail(id, &failure, *meta, now);
            }
            Operation::FailQueued { id, failure } => {
                let result = self.workspace.fail_queued(&id, &failure, now);
                self.ends(id, result.map_err(Failure::from));
            }
            Operation::Release { id, counted } => self.release(id, counted),
            Operation::Look(id) => self.look(id),
            Operation::LookFor { id, reply } => {
                self.look(id);
                // A client that is gone has nobody to be told.
                let _ = reply.send(Ok(()));
            }
            Operation::Arrived(id) => {
                if !self.own.remove(&id) {
                    self.look(id);
                }
            }
            Operation::BeginHook(id) => self.begin_hook(id),
            Operation::EndHook { id, outcome } => {
                self.end_hook(&id, &outcome);
                self.tell(StoreEvent::HookNoted);
            }
            // Told after the sync: what this group does to it is done then.
            Operation::Stands(id) => self.asked_about.push(id),
            Operation::List => self.list(),
            Operation::Retry { id, reply } => {
                let result = self.workspace.retry(&id);
                if result.is_ok()
                    && let Ok(spec) = self.workspace.reader().spec(&id)
                {
                    self.needs.add(&id, &spec.after);
                }
                self.answer(id, result, reply, true);
            }
            Operation::Remove { id, reply } => {
                self.look_at_all();
                match self.needed_by(&id) {
                    // A client that is gone has nobody to be told.
                    Some(by) => drop(reply.send(Err(needed(&id, &by)))),
                    None => {
                        let result = self.workspace.remove(&id);
                        self.answer(id, result, reply, false);
                    }
                }
            }
            Operation::RemoveAll { mut ids, reply } => {
                self.look_at_all();
                ids.retain(|id| {
                    let kept = self.hooked.contains(id) || self.needed_by(id).is_some();
                    !kept && self.workspace.remove(id).is_ok()
                });
                self.pending_removals.push((ids, reply));
            }
        }
    }

    fn submit(&mut self, submission: Submission, now: SystemTime) {
        let Submission { id, prompt, spec, meta, claim } = submission;
        if let Err(failure) = self.all_there(&spec.after) {
            return self.tell(StoreEvent::Submitted { id, result: Err(failure) });
        }
        if let Err(failure) = self.note_hook(&id, &spec) {
            return self.tell(StoreEvent::Submitted { id, result: Err(failure) });
        }
        let (after, any) = (spec.after.clone(), spec.after_any);
        let job = NewJob { id: id.clone(), prompt, spec, meta };
        let result = if claim {
            self.workspace.submit_claimed(job, now).map(|job| {
                let claim = self.claim_of(&job);
                self.claimed.insert(id.clone(), job);
                Some(claim)
            })
        } else {
            self.workspace.submit(job, now).map(|()| None)
        };
        match result {
            // It begins before it is synced: who waits for its first token waits for no disk.
            Ok(Some(claim)) if claim.spec.attached => {
                self.own.insert(id.clone());
                let written = Written::Claimed(Box::new(claim));
                self.tell(StoreEvent::Submitted { id: id.clone(), result: Ok(written) });
                self.pending.push((id, Pending::Begun));
            }
            // Here somebody waits for the disk, and an engine would take its processor.
            Ok(Some(claim)) => {
                self.own.insert(id.clone());
                self.pending.push((id, Pending::BeginsThen(Box::new(claim))));
            }
            Ok(None) => {
                self.own.insert(id.clone());
                self.needs.add(&id, &after);
                self.pending.push((id, Pending::Queued { after, any }));
            }
            Err(error) => {
                self.forget_hook(&id);
                self.tell(StoreEvent::Submitted { id, result: Err(error.into()) });
            }
        }
    }

    fn append(&mut self, id: &JobId, text: &str) {
        if text.is_empty() {
            return;
        }
        if let Some(job) = self.claimed.get_mut(id)
            && let Err(error) = job.append_partial(text)
        {
            tracing::warn!(job = %id, %error, "the answer so far is not on disk");
        }
    }

    fn complete(&mut self, id: JobId, text: &str, meta: JobMeta, now: SystemTime) {
        let Some(job) = self.claimed.remove(&id) else { return self.not_claimed(id) };
        match self.workspace.complete(job, text, meta.clone(), now) {
            Ok(()) => self.ends(id, Ok(())),
            Err(still) => {
                let StillClaimed { job, error } = *still;
                let failure = Failure::from(error);
                // Where there is no room for the answer there may be some for the reason. Where
                // there is not, the job stays where it is and is begun again when there is.
                if let Err(still) = self.workspace.fail(job, &failure, meta, now) {
                    tracing::error!(job = %id, error = %still.error, "its failure is not on disk");
                    self.recover_later(id.clone());
                }
                self.ends(id, Err(failure));
            }
        }
    }

    fn fail(&mut self, id: JobId, failure: &Failure, meta: JobMeta, now: SystemTime) {
        let Some(job) = self.claimed.remove(&id) else { return self.not_claimed(id) };
        let result = self.workspace.fail(job, failure, meta, now);
        if result.is_err() {
            self.recover_later(id.clone());
        }
        self.ends(id, result.map_err(|still| still.error.into()));
    }

    fn release(&mut self, id: JobId, counted: bool) {
        let attempt = if counted { Attempt::Counted } else { Attempt::Forgotten };
        let Some(job) = self.claimed.remove(&id) else {
            let failure = not_claimed(&id);
            return self.tell(StoreEvent::Released { id, result: Err(failure) });
        };
        match self.workspace.release(job, attempt) {
            Ok(()) => {
                self.own.insert(id.clone());
                self.pending.push((id, Pending::Released));
            }
            Err(still) => {
                self.recover_later(id.clone());
                let result = Err(still.error.into());
                self.tell(StoreEvent::Released { id, result });
            }
        }
    }

    /// Tells that a claim came to nothing: for now, or for good.
    fn not_claimed_for(&mut self, id: JobId, error: WorkspaceError) {
        if error.is_shortage() {
            self.tell(StoreEvent::NotNow { id, failure: error.into() });
        } else {
            self.listed = None;
            if matches!(error, WorkspaceError::Rejected { .. }) {
                self.pending.push((id.clone(), Pending::Refused));
            }
            self.tell(StoreEvent::Claimed { id, result: Err(error.into()) });
        }
    }

    /// Notes a job that was left in `processing` because something has run out.
    fn recover_later(&mut self, id: JobId) {
        self.unended.push_back((Instant::now() + RECOVERED_AFTER, id));
    }

    fn recover(&mut self, id: JobId) {
        if self.claimed.contains_key(&id) {
            // It came to be run again in another way, and is held.
            return;
        }
        match self.workspace.recover_job(&id, SystemTime::now()) {
            Ok(()) => self.pending.push((id, Pending::Recovered)),
            Err(error) => {
                tracing::debug!(job = %id, %error, "a job waits to be recovered");
                self.recover_later(id);
            }
        }
    }

    fn answer(
        &mut self,
        id: JobId,
        result: Result<(), WorkspaceError>,
        reply: Reply<()>,
        then_look: bool,
    ) {
        match result {
            Ok(()) => self.pending.push((id, Pending::Answer { reply, then_look })),
            Err(error) => {
                let _ = reply.send(Err(error.into()));
            }
        }
    }

    fn ends(&mut self, id: JobId, result: Result<(), Failure>) {
        match result {
            Ok(()) => self.pending.push((id, Pending::Ended)),
            Err(failure) => {
                // One that is queued still is not known any more, until it is found again.
                self.listed = None;
                self.tell(StoreEvent::Ended { id, result: Err(failure) });
            }
        }
    }

    fn not_claimed(&self, id: JobId) {
        let failure = not_claimed(&id);
        self.tell(StoreEvent::Ended { id, result: Err(failure) });
    }

    /// What the owner needs to run a job that was claimed.
    fn claim_of(&self, job: &ClaimedJob) -> Claim {
        let (prompt, spec, meta) =
            (job.prompt().to_owned(), job.spec().clone(), job.meta().clone());
        let mut claim = Claim { prompt, spec, meta, unfit: None };
        claim.unfit = expand(&mut claim, &self.workspace.reader()).err();
        claim
    }

    /// Checks that a job waits for none that is not there.
    fn all_there(&self, after: &[JobId]) -> Result<(), Failure> {
        let reader = self.workspace.reader();
        after.iter().try_for_each(|id| reader.locate(id).map(drop).map_err(Failure::from))
    }

    /// Looks at all jobs found at the start, so that it is known what each needs.
    fn look_at_all(&mut self) {
        while let Some(id) = self.backlog.pop_front() {
            self.look(id);
        }
    }

    /// Tells how a job stands now, and goes on where it has ended without anybody here.
    fn tell_standing(&mut self, id: JobId) {
        let how = standing(&id, &self.workspace.reader());
        if how != Standing::Open {
            self.needs.ended(&id);
        }
        self.tell(StoreEvent::Stands { id, how });
    }

    fn needed_by(&mut self, id: &JobId) -> Option<JobId> {
        let reader = self.workspace.reader();
        self.needs.needed_by(id, |job| lives(job, &reader))
    }

    /// Looks at a job in `ready`, and tells of it if it is one.
    fn look(&mut self, id: JobId) {
        let now = SystemTime::now();
        match self.workspace.inspect(&id, now) {
            Ok(job) => {
                let waited = job
                    .meta
                    .submitted_at
                    .as_deref()
                    .and_then(threadrunner_workspace::parse_timestamp)
                    .and_then(|submitted| now.duration_since(submitted).ok())
                    .unwrap_or_default();
                let time_left_s = job.spec.timeout_s.map(|seconds| seconds - waited.as_secs_f64());
                self.needs.add(&id, &job.spec.after);
                if let Err(failure) = self.note_hook(&id, &job.spec) {
                    tracing::warn!(job = %id, %failure, "its hook is lost if the daemon dies");
                    self.hooked.insert(id.clone());
                }
                let spec = job.spec;
                let after = After::of(spec.after, spec.after_any, &self.workspace.reader());
                let (model, priority) = (spec.model, spec.priority);
                let found = Found { model, priority, time_left_s, after };
                self.tell(StoreEvent::Found { id, found });
            }
            // Taken back or moved by whoever put it there, or by this daemon.
            Err(WorkspaceError::NotFound { .. } | WorkspaceError::WrongState { .. }) => {}
            Err(WorkspaceError::Unfinished { .. }) => {
                if self.unfinished.iter().all(|(_, other)| *other != id) {
                    self.unfinished.push_back((Instant::now() + FILLED_AFTER, id));
                }
            }
            Err(error @ (WorkspaceError::Rejected { .. } | WorkspaceError::NotAJob { .. })) => {
                tracing::warn!(job = %id, %error, "a job in ready is none");
                if matches!(error, WorkspaceError::Rejected { .. }) {
                    self.pending.push((id, Pending::Refused));
                }
            }
            Err(error) => {
                self.listed = None;
                // Once: it is looked at again with each listing.
                if self.complained.len() < COMPLAINTS && self.complained.insert(id.clone()) {
                    tracing::warn!(job = %id, %error, "a job in ready cannot be looked at");
                }
            }
        }
    }

    fn list(&mut self) {
        // The watcher may have lost events, also those that would have emptied this.
        self.own.clear();
        let reader = self.workspace.reader();
        let changed = reader.changed(JobState::Ready);
        // A long queue that rests is not read again and again.
        if changed.is_some() && changed == self.listed {
            return;
        }
        let at_rest = |changed: &SystemTime| {
            SystemTime::now().duration_since(*changed).is_ok_and(|age| age > AT_REST_AFTER)
        };
        self.listed = changed.filter(at_rest);
        match reader.ids(JobState::Ready) {
            Ok(ids) => self.tell(StoreEvent::Listed { ids }),
            Err(error) => {
                self.listed = None;
                tracing::error!(%error, "the queue cannot be listed");
            }
        }
    }

    fn sync(&mut self) {
        let mut synced = self.workspace.sync();
        for (id, pending) in std::mem::take(&mut self.pending) {
            let error = synced.take_error(&id);
            match (pending, error) {
                (Pending::Queued { after, any }, None) => {
                    // Not sooner: what ended with this group has ended by now, and what has not
                    // is told of after this.
                    let after = After::of(after, any, &self.workspace.reader());
                    let result = Ok(Written::Ready(after));
                    self.tell(StoreEvent::Submitted { id: id.clone(), result });
                    self.tell(StoreEvent::Durable { id });
                }
                (Pending::Queued { .. }, Some(error)) => {
                    self.needs.ended(&id);
                    self.forget_hook(&id);
                    self.tell(StoreEvent::Submitted { id, result: Err(error.into()) });
                }
                (Pending::BeginsThen(claim), None) => {
                    self.tell(StoreEvent::Durable { id: id.clone() });
                    let result = Ok(Written::Claimed(claim));
                    self.tell(StoreEvent::Submitted { id, result });
                }
                (Pending::BeginsThen(_), Some(error)) => {
                    self.claimed.remove(&id);
                    self.forget_hook(&id);
                    self.tell(StoreEvent::Submitted { id, result: Err(error.into()) });
                }
                (Pending::Begun, None) => self.tell(StoreEvent::Durable { id }),
                (Pending::Begun, Some(error)) => {
                    self.claimed.remove(&id);
                    self.forget_hook(&id);
                    self.tell(StoreEvent::Lost { id, failure: error.into() });
                }
                (Pending::Claimed(claim), None) => {
                    self.tell(StoreEvent::Claimed { id, result: Ok(claim) });
                }
                (Pending::Claimed(_), Some(error)) => {
                    self.claimed.remove(&id);
                    self.not_claimed_for(id, error);
                }
                (Pending::Released, Some(error)) => {
                    self.recover_later(id.clone());
                    self.tell(StoreEvent::Released { id, result: Err(error.into()) });
                }
                (Pending::Released, None) => {
                    self.tell(StoreEvent::Released { id, result: Ok(()) });
                }
                (Pending::Refused, None) => {
                    self.needs.ended(&id);
                    self.tell_hook_due(&id);
                    self.tell(StoreEvent::Refused { id });
                }
                (Pending::Refused, Some(error)) => {
                    tracing::warn!(job = %id, %error, "a malformed job stays in ready");
                }
                (Pending::Ended, Some(error)) => {
                    self.recover_later(id.clone());
                    self.tell(StoreEvent::Ended { id, result: Err(error.into()) });
                }
                (Pending::Ended, None) => {
                    self.needs.ended(&id);
                    self.tell_hook_due(&id);
                    self.tell(StoreEvent::Ended { id, result: Ok(()) });
                }
                (Pending::Recovered, Some(_)) => self.recover_later(id),
                // In `ready`, if it is to be run again; else the look finds nothing.
                (Pending::Recovered, None) => {
                    self.tell_standing(id.clone());
                    self.tell_hook_due(&id);
                    self.backlog.push_back(id);
                }
                (Pending::Answer { reply, then_look }, error) => {
                    let _ = reply.send(error.map_or(Ok(()), |error| Err(error.into())));
                    if then_look {
                        self.own.insert(id.clone());
                        // Not here: one that turns out malformed is moved by the next sync.
                        self.backlog.push_back(id);
                    }
                }
            }
        }
        for id in std::mem::take(&mut self.asked_about) {
            self.tell_standing(id);
        }
        for (mut ids, reply) in std::mem::take(&mut self.pending_removals) {
            ids.retain(|id| synced.take_error(id).is_none());
            // A client that is gone has nobody to be told.
            let _ = reply.send(Ok(ids));
        }
        for (id, error) in synced.failed {
            tracing::warn!(job = %id, %error, "the workspace could not go on with a job");
        }
    }
}

/// Whether a job is there and has not ended.
fn lives(id: &JobId, reader: &Reader) -> bool {
    reader.locate(id).is_ok_and(|(state, _)| !state.is_final())
}

fn needed(id: &JobId, by: &JobId) -> Failure {
    Failure::new(ErrorCode::WrongState, format!("job {by} still needs job {id}: it waits for it"))
        .hint(format!("remove it when that has ended, or `threadrunner cancel {by}`"))
}

fn not_claimed(id: &JobId) -> Failure {
    Failure::new(
        threadrunner_core::ErrorCode::Internal,
        format!("job {id} is not in {}", JobState::Processing.directory()),
    )
}
