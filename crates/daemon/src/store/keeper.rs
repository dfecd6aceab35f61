//! The thread's own side: prepare, sync, tell.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use threadrunner_core::{Failure, JobId, JobMeta, JobState};
use threadrunner_workspace::{
    Attempt, ClaimedJob, NewJob, StillClaimed, Workspace, WorkspaceError,
};

use super::{Claim, Found, Operation, Reply, StoreEvent, StoreEvents, Submission};
use crate::workspaces::WorkspaceId;

/// The most operations that share a sync.
const GROUP: usize = 256;
/// How many of the jobs found at the start are looked at between two groups.
const BACKLOG_STEP: usize = 256;
/// When to look again at a directory that has no prompt yet.
const FILLED_AFTER: Duration = Duration::from_secs(1);

/// How many jobs are pruned at once, so that others are not kept waiting.
const PRUNE_STEP: usize = 256;

/// Owns the workspace.
pub(super) struct Keeper {
    id: WorkspaceId,
    workspace: Workspace,
    events: StoreEvents,
    claimed: HashMap<JobId, ClaimedJob>,
    /// Jobs that were in `ready` at the start and have not been looked at.
    backlog: VecDeque<JobId>,
    /// Directories that somebody fills in `ready` itself, and when they are looked at again.
    unfinished: VecDeque<(Instant, JobId)>,
    /// Jobs that this daemon put into `ready`, until the watcher has told of them.
    own: HashSet<JobId>,
    /// What is to be told when the group is synced.
    pending: Vec<(JobId, Pending)>,
    pending_prunes: Vec<PendingPrune>,
}

/// What was pruned, as far as the sync agrees, and who is told.
type PendingPrune = (Result<Vec<JobId>, Failure>, Reply<Vec<JobId>>);

/// What an operation of the group will have come to.
enum Pending {
    Queued,
    Begun,
    Claimed(Box<Claim>),
    Released,
    Ended,
    Answer { reply: Reply<()>, then_look: bool },
}

impl Keeper {
    pub(super) fn new(
        id: WorkspaceId,
        workspace: Workspace,
        ready: Vec<JobId>,
        events: StoreEvents,
    ) -> Self {
        Self {
            id,
            workspace,
            events,
            claimed: HashMap::new(),
            backlog: ready.into(),
            unfinished: VecDeque::new(),
            own: HashSet::new(),
            pending: Vec::new(),
            pending_prunes: Vec::new(),
        }
    }

    /// Works until nobody has anything to ask any more.
    pub(super) fn run(mut self, operations: &Receiver<Operation>) {
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
        let (due, _) = self.unfinished.front()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    fn tell(&self, event: StoreEvent) {
        // An owner that is gone has nobody to be told.
        let _ = self.events.blocking_send((self.id, event));
    }

    fn prepare(&mut self, operation: Operation, now: SystemTime) {
        match operation {
            Operation::Submit(submission) => self.submit(*submission, now),
            Operation::Claim(id) => match self.workspace.claim(&id, now) {
                Ok(job) => {
                    let claim = Box::new(claim_of(&job));
                    self.claimed.insert(id.clone(), job);
                    self.pending.push((id, Pending::Claimed(claim)));
                }
                Err(error) => self.tell(StoreEvent::Claimed { id, result: Err(error.into()) }),
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
            Operation::List => self.list(),
            Operation::Retry { id, reply } => {
                let result = self.workspace.retry(&id);
                self.answer(id, result, reply, true);
            }
            Operation::Remove { id, reply } => {
                let result = self.workspace.remove(&id);
                self.answer(id, result, reply, false);
            }
            Operation::Prune { retention, reply } => {
                let pruned = self.workspace.prune(&retention, PRUNE_STEP, now);
                self.pending_prunes.push((pruned.map_err(Failure::from), reply));
            }
        }
    }

    fn submit(&mut self, submission: Submission, now: SystemTime) {
        let Submission { id, prompt, spec, meta, claim } = submission;
        let job = NewJob { id: id.clone(), prompt, spec, meta };
        let result = if claim {
            self.workspace.submit_claimed(job, now).map(|job| {
                let claim = claim_of(&job);
                self.claimed.insert(id.clone(), job);
                Some(claim)
            })
        } else {
            self.workspace.submit(job, now).map(|()| None)
        };
        match result {
            // It begins before it is synced: who waits for its first token waits for no disk.
            Ok(Some(claim)) => {
                self.own.insert(id.clone());
                self.tell(StoreEvent::Submitted { id: id.clone(), result: Ok(Some(claim)) });
                self.pending.push((id, Pending::Begun));
            }
            Ok(None) => {
                self.own.insert(id.clone());
                self.pending.push((id, Pending::Queued));
            }
            Err(error) => self.tell(StoreEvent::Submitted { id, result: Err(error.into()) }),
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
                // there is not, the job stays where it is and is begun again after a restart.
                if let Err(still) = self.workspace.fail(job, &failure, meta, now) {
                    tracing::error!(job = %id, error = %still.error, "its failure is not on disk");
                }
                self.ends(id, Err(failure));
            }
        }
    }

    fn fail(&mut self, id: JobId, failure: &Failure, meta: JobMeta, now: SystemTime) {
        let Some(job) = self.claimed.remove(&id) else { return self.not_claimed(id) };
        let result = self.workspace.fail(job, failure, meta, now);
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
                let result = Err(still.error.into());
                self.tell(StoreEvent::Released { id, result });
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
            Err(failure) => self.tell(StoreEvent::Ended { id, result: Err(failure) }),
        }
    }

    fn not_claimed(&self, id: JobId) {
        let failure = not_claimed(&id);
        self.tell(StoreEvent::Ended { id, result: Err(failure) });
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
                let (model, priority) = (job.spec.model, job.spec.priority);
                let tag = job.meta.tags.first().map(|tag| tag.as_str().into());
                let found = Found { model, priority, tag, time_left_s };
                self.tell(StoreEvent::Found { id, found });
            }
            // Taken back or moved by whoever put it there, or by this daemon.
            Err(WorkspaceError::NotFound { .. } | WorkspaceError::WrongState { .. }) => {}
            Err(WorkspaceError::Unfinished { .. }) => {
                if self.unfinished.iter().all(|(_, other)| *other != id) {
                    self.unfinished.push_back((Instant::now() + FILLED_AFTER, id));
                }
            }
            Err(error) => tracing::warn!(job = %id, %error, "a job in ready is none"),
        }
    }

    fn list(&mut self) {
        // The watcher may have lost events, also those that would have emptied this.
        self.own.clear();
        match self.workspace.reader().ids(JobState::Ready) {
            Ok(ids) => self.tell(StoreEvent::Listed { ids }),
            Err(error) => tracing::error!(%error, "the queue cannot be listed"),
        }
    }

    fn sync(&mut self) {
        let mut synced = self.workspace.sync();
        for (id, pending) in std::mem::take(&mut self.pending) {
            let error = synced.take_error(&id).map(Failure::from);
            match (pending, error) {
                (Pending::Queued, None) => {
                    self.tell(StoreEvent::Submitted { id: id.clone(), result: Ok(None) });
                    self.tell(StoreEvent::Durable { id });
                }
                (Pending::Queued, Some(failure)) => {
                    self.tell(StoreEvent::Submitted { id, result: Err(failure) });
                }
                (Pending::Begun, None) => self.tell(StoreEvent::Durable { id }),
                (Pending::Begun, Some(failure)) => {
                    self.claimed.remove(&id);
                    self.tell(StoreEvent::Lost { id, failure });
                }
                (Pending::Claimed(claim), None) => {
                    self.tell(StoreEvent::Claimed { id, result: Ok(*claim) });
                }
                (Pending::Claimed(_), Some(failure)) => {
                    self.claimed.remove(&id);
                    self.tell(StoreEvent::Claimed { id, result: Err(failure) });
                }
                (Pending::Released, error) => {
                    self.tell(StoreEvent::Released { id, result: error.map_or(Ok(()), Err) });
                }
                (Pending::Ended, error) => {
                    self.tell(StoreEvent::Ended { id, result: error.map_or(Ok(()), Err) });
                }
                (Pending::Answer { reply, then_look }, error) => {
                    let _ = reply.send(error.map_or(Ok(()), Err));
                    if then_look {
                        self.own.insert(id.clone());
                        // Not here: one that turns out malformed is moved by the next sync.
                        self.backlog.push_back(id);
                    }
                }
            }
        }
        for (pruned, reply) in std::mem::take(&mut self.pending_prunes) {
            // A client that is gone has nobody to be told.
            let _ = reply.send(pruned.map(|mut ids| {
                ids.retain(|id| synced.take_error(id).is_none());
                ids
            }));
        }
        for (id, error) in synced.failed {
            tracing::warn!(job = %id, %error, "the workspace could not go on with a job");
        }
    }
}

fn claim_of(job: &ClaimedJob) -> Claim {
    Claim { prompt: job.prompt().to_owned(), spec: job.spec().clone(), meta: job.meta().clone() }
}

fn not_claimed(id: &JobId) -> Failure {
    Failure::new(
        threadrunner_core::ErrorCode::Internal,
        format!("job {id} is not in {}", JobState::Processing.directory()),
    )
}
