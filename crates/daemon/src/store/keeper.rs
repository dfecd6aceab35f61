//! The thread's own side: prepare, sync, tell.

mod ends;
mod gather;
mod look;
mod sync;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use threadrunner_core::{ErrorCode, Failure, JobId, JobState};
use threadrunner_workspace::{ClaimedJob, NewJob, Workspace, WorkspaceError};

use self::gather::Pace;
use super::needs::Needs;
use super::sessions::Sessions;
use super::{Claim, Operation, Reply, StoreEvent, StoreEvents, Submission, Written};
use crate::workspaces::WorkspaceId;

/// How many of the jobs found at the start are looked at between two groups.
const BACKLOG_STEP: usize = 32;
/// When to look again at a directory that has no prompt yet.
const FILLED_AFTER: Duration = Duration::from_secs(1);
/// When to try again to end a job whose end could not be written.
const RECOVERED_AFTER: Duration = Duration::from_secs(2);
/// So many jobs that cannot be looked at are told of in the log.
const COMPLAINTS: usize = 1000;
/// How long a job may be on the disk in the workspace's log alone.
const RESTS_AFTER: Duration = Duration::from_secs(5);
/// A directory that changed so short a time ago may change again without its time telling.
const AT_REST_AFTER: Duration = Duration::from_secs(2);

/// Owns the workspace.
pub(super) struct Keeper {
    id: WorkspaceId,
    pub(super) workspace: Workspace,
    events: StoreEvents,
    claimed: HashMap<JobId, ClaimedJob>,
    /// Jobs that were in `ready` at the start and have not been looked at.
    backlog: VecDeque<JobId>,
    /// Directories that somebody fills in `ready` itself, and when they are looked at again.
    unfinished: VecDeque<(Instant, JobId)>,
    /// Jobs that are in `processing` and held by nobody, because their end could not be written,
    /// and when that is tried again.
    unended: VecDeque<(Instant, JobId)>,
    /// When what the workspace's log has is put on the disk otherwise.
    rests_at: Option<Instant>,
    /// Jobs in `ready` that cannot be looked at, and of which the log says so.
    complained: HashSet<JobId>,
    /// When `ready` had changed last when it was listed, if it was at rest then.
    listed: Option<SystemTime>,
    needs: Needs,
    pub(super) sessions: Sessions,
    /// Jobs with a hook that has not run.
    pub(super) hooked: HashSet<JobId>,
    /// What is to be told when the group is synced.
    pending: Vec<(JobId, Pending)>,
    /// What is removed, as far as the sync agrees, and who is told.
    pending_removals: Vec<(Vec<JobId>, Reply<Vec<JobId>>)>,
    /// Jobs whose standing is to be told then.
    asked_about: Vec<JobId>,
    pace: Pace,
}

/// What an operation of the group will have come to.
enum Pending {
    Queued { after: Vec<JobId>, any: bool, turn: Option<JobId> },
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
            unended: VecDeque::new(),
            rests_at: None,
            complained: HashSet::new(),
            listed: None,
            needs: Needs::default(),
            sessions: Sessions::default(),
            hooked: HashSet::new(),
            pending: Vec::new(),
            pending_removals: Vec::new(),
            asked_about: Vec::new(),
            pace: Pace::default(),
        }
    }

    /// Works until nobody has anything to ask any more.
    pub(super) fn run(mut self, operations: &Receiver<Operation>) {
        self.tell_hooks_due();
        self.recall_sessions();
        loop {
            let first = match self.pause() {
                None => operations.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(pause) => operations.recv_timeout(pause),
            };
            let first = match first {
                Ok(operation) => Some(operation),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            self.gather(first, operations);
            let now = Instant::now();
            if self.rests_at.take_if(|due| *due <= now).is_some() {
                self.rest();
            }
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
            if self.workspace.is_restless() {
                self.rests_at.get_or_insert_with(|| Instant::now() + RESTS_AFTER);
            } else {
                self.rests_at = None;
            }
        }
        self.rest();
    }

    fn rest(&mut self) {
        if let Err(error) = self.workspace.rest() {
            tracing::warn!(%error, "what the workspace's log has is not on the disk otherwise");
        }
    }

    /// How long to wait for an operation; `None` when there is nothing else to do.
    fn pause(&self) -> Option<Duration> {
        if !self.backlog.is_empty() {
            return Some(Duration::ZERO);
        }
        let due = [self.unfinished.front(), self.unended.front()];
        let due = due.into_iter().flatten().map(|(due, _)| *due).chain(self.rests_at).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    pub(super) fn tell(&self, event: StoreEvent) {
        // An owner that is gone has nobody to be told.
        let _ = self.events.blocking_send((self.id, event));
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
                    // What cannot be noted here is told when the job begins.
                    let _ = self.ask_turn(&id, &spec);
                }
                self.answer(id, result, reply, true);
            }
            Operation::Remove { id, reply } => {
                self.look_at_all();
                match self.may_be_removed(&id) {
                    // A client that is gone has nobody to be told.
                    Err(failure) => drop(reply.send(Err(failure))),
                    Ok(()) => {
                        let result = self.workspace.remove(&id);
                        self.answer(id, result, reply, false);
                    }
                }
            }
            Operation::RemoveAll { mut ids, reply } => {
                self.look_at_all();
                if let Err(failure) = self.look_at_sessions() {
                    // What cannot be read may need any of them.
                    drop(reply.send(Err(failure)));
                    return;
                }
                ids.retain(|id| {
                    let kept = self.hooked.contains(id) || self.may_be_removed(id).is_err();
                    !kept && self.workspace.remove(id).is_ok()
                });
                self.pending_removals.push((ids, reply));
            }
            Operation::UndoTurn { name, reply } => self.undo_turn(name, reply),
            Operation::RemoveSession { name, reply } => self.remove_session(name, reply),
        }
    }

    fn submit(&mut self, submission: Submission, now: SystemTime) {
        let Submission { id, is_chosen, prompt, spec, meta, claim } = submission;
        // Before anything is noted under that id: it would be the other job's.
        if is_chosen && let Err(error) = self.workspace.vacant(&id) {
            return self.tell(StoreEvent::Submitted { id, result: Err(error.into()) });
        }
        if let Err(failure) = self.all_there(&spec.after) {
            return self.tell(StoreEvent::Submitted { id, result: Err(failure) });
        }
        if let Err(failure) = self.note_hook(&id, &spec) {
            return self.tell(StoreEvent::Submitted { id, result: Err(failure) });
        }
        let turn = match self.ask_new_turn(&id, &spec) {
            Ok(turn) => turn,
            Err(failure) => {
                self.forget_hook(&id);
                return self.tell(StoreEvent::Submitted { id, result: Err(failure) });
            }
        };
        let (after, any) = (spec.after.clone(), spec.after_any);
        let job = NewJob { id: id.clone(), prompt, spec, meta };
        let result = if claim && turn.is_none() {
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
                let written = Written::Claimed(Box::new(claim));
                self.tell(StoreEvent::Submitted { id: id.clone(), result: Ok(written) });
                self.pending.push((id, Pending::Begun));
            }
            // Here somebody waits for the disk, and an engine would take its processor.
            Ok(Some(claim)) => {
                self.pending.push((id, Pending::BeginsThen(Box::new(claim))));
            }
            Ok(None) => {
                self.needs.add(&id, &after);
                self.pending.push((id, Pending::Queued { after, any, turn }));
            }
            Err(error) => {
                self.forget_hook(&id);
                self.drop_turn(&id);
                self.tell(StoreEvent::Submitted { id, result: Err(error.into()) });
            }
        }
    }

    /// Whether anybody still asks for a job that has ended.
    fn may_be_removed(&mut self, id: &JobId) -> Result<(), Failure> {
        if let Some(by) = self.needed_by(id) {
            return Err(needed(id, &by));
        }
        match self.kept_by(id)? {
            Some(session) => Err(Failure::new(
                ErrorCode::WrongState,
                format!("session '{session}' needs job {id}: it is what was said there"),
            )
            .hint(format!("`threadrunner sessions rm {session}` forgets the session first"))),
            None => Ok(()),
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
}

fn needed(id: &JobId, by: &JobId) -> Failure {
    Failure::new(ErrorCode::WrongState, format!("job {by} still needs job {id}: it waits for it"))
        .hint(format!("remove it when that has ended, or `threadrunner cancel {by}`"))
}

fn not_claimed(id: &JobId) -> Failure {
    // Somebody else has moved or removed it.
    Failure::new(
        ErrorCode::JobNotFound,
        format!("job {id} is not in {} any more", JobState::Processing.directory()),
    )
}
