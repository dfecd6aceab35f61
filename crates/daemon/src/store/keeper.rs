//! The thread's side of the workspace: prepares operations, syncs them together, and reports the
//! outcome.

mod ends;
mod gather;
mod look;
mod remove;
mod sync;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use threadrunner_core::{ErrorCode, Failure, JobId, JobState};
use threadrunner_workspace::{ClaimedJob, NewJob, Workspace, WorkspaceError};

use self::gather::Pace;
use self::remove::{Removal, Remover};
use super::abandoned::Abandoned;
use super::known::Sessions;
use super::needs::Needs;
use super::{Claim, Operation, Reply, StoreEvent, StoreEvents, Submission, Written};
use crate::store::WorkspaceId;

/// How many of the jobs found at the start are inspected per group of operations.
const BACKLOG_STEP: usize = 32;
/// When to look again at a directory in `ready` that has no prompt yet.
const FILLED_AFTER: Duration = Duration::from_secs(1);
/// When to retry recovering a job whose end could not be written.
const RECOVERED_AFTER: Duration = Duration::from_secs(2);
/// The maximum number of unreadable jobs that are mentioned in the log.
const COMPLAINTS: usize = 1000;
/// How long a job may be on disk only in the workspace's redo log.
const RESTS_AFTER: Duration = Duration::from_secs(5);
/// A directory that changed more recently than this may change again without its modification time
/// showing it.
const AT_REST_AFTER: Duration = Duration::from_secs(2);

/// Owns the workspace.
pub(super) struct Keeper {
    id: WorkspaceId,
    pub(super) workspace: Workspace,
    events: StoreEvents,
    claimed: HashMap<JobId, ClaimedJob>,
    /// Jobs that were in `ready` at the start and have yet to be inspected.
    backlog: VecDeque<JobId>,
    /// Directories in `ready` that another program is still filling, and when to look again.
    unfinished: VecDeque<(Instant, JobId)>,
    /// Jobs left in `processing` because their end could not be written, and when to retry.
    unended: VecDeque<(Instant, JobId)>,
    /// When to write out what is only in the redo log.
    rests_at: Option<Instant>,
    /// Unreadable jobs in `ready` that the log already mentions.
    complained: HashSet<JobId>,
    /// The modification time of `ready` when it was last listed, if it was at rest then.
    listed: Option<SystemTime>,
    needs: Needs,
    pub(super) sessions: Sessions,
    /// Jobs with a hook that has not run.
    pub(super) hooked: HashSet<JobId>,
    /// What to report once the group is synced.
    pending: Vec<(JobId, Pending)>,
    /// Removals to finish then, as far as the sync succeeds.
    pending_removals: Vec<Removal>,
    remover: Remover,
    /// Jobs whose standing is to be reported then.
    asked_about: Vec<JobId>,
    /// Why the workspace is to be let go of, and whom to tell then.
    abandoned: Option<(Failure, Reply<()>)>,
    pace: Pace,
}

/// What to report for an operation once the group is synced.
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
            remover: Remover::default(),
            asked_about: Vec::new(),
            abandoned: None,
            pace: Pace::default(),
        }
    }

    /// Runs until all handles are dropped.
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
            if let Some((failure, reply)) = self.abandoned.take() {
                // What was removed must not come back from the redo log.
                self.rest();
                let Self { id, workspace, events, claimed, .. } = self;
                drop((workspace, claimed));
                // The client may be gone.
                let _ = reply.send(Ok(()));
                return Abandoned::new(id, failure, events).run(operations);
            }
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
            tracing::warn!(%error, "cannot write out the redo log yet");
        }
    }

    /// How long to wait for an operation; `None` if there is nothing else to do.
    fn pause(&self) -> Option<Duration> {
        if !self.backlog.is_empty() {
            return Some(Duration::ZERO);
        }
        let due = [self.unfinished.front(), self.unended.front()];
        let due = due.into_iter().flatten().map(|(due, _)| *due).chain(self.rests_at).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    pub(super) fn tell(&self, event: StoreEvent) {
        // The owner may be gone.
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
            Operation::Complete { id, text, output, meta } => {
                self.complete(id, (&text, &output), *meta, now);
            }
            Operation::Fail { id, failure, rest, meta } => {
                self.append(&id, &rest);
                self.fail(id, &failure, *meta, now);
            }
            Operation::FailQueued { id, failure } => {
                let result = self.workspace.fail_queued(&id, &failure, now);
                self.ends(id, result.map_err(Failure::from));
            }
            Operation::Release { id, counted } => self.release(id, counted),
            Operation::Look { id, .. } => self.look(id),
            Operation::LookFor { id, reply } => {
                self.look(id);
                // The client may be gone.
                let _ = reply.send(Ok(()));
            }
            Operation::BeginHook(id) => self.begin_hook(id),
            Operation::EndHook { id, outcome } => {
                self.end_hook(&id, &outcome);
                self.tell(StoreEvent::HookNoted);
            }
            // Reported after the sync, which includes what this group does to it.
            Operation::Stands(id) => self.asked_about.push(id),
            Operation::List(asked) => {
                // What arrives from here on needs a list of its own.
                drop(asked);
                self.list();
            }
            Operation::Retry { id, reply } => {
                let result = self.workspace.retry(&id);
                if result.is_ok()
                    && let Ok(spec) = self.workspace.reader().spec(&id)
                {
                    self.needs.add(&id, &spec.after);
                    // If this fails, the job reports why when it begins.
                    let _ = self.ask_turn(&id, &spec);
                }
                self.answer(id, result, reply, true);
            }
            Operation::Remove { id, reply } => {
                self.look_at_all();
                match self.may_be_removed(&id) {
                    // The client may be gone.
                    Err(failure) => drop(reply.send(Err(failure))),
                    Ok(()) => self.remove(vec![id], reply),
                }
            }
            Operation::RemoveAll { mut ids, reply } => {
                self.look_at_all();
                if let Err(failure) = self.look_at_sessions() {
                    // A session that cannot be read may need any of them.
                    drop(reply.send(Err(failure)));
                    return;
                }
                ids.retain(|id| !self.hooked.contains(id) && self.may_be_removed(id).is_ok());
                self.remove(ids, reply);
            }
            Operation::UndoTurn { name, reply } => self.undo_turn(name, reply),
            Operation::RemoveSession { name, reply } => self.remove_session(name, reply),
            Operation::Abandon { failure, reply } => self.abandoned = Some((failure, reply)),
        }
    }

    fn submit(&mut self, submission: Submission, now: SystemTime) {
        let Submission { id, is_chosen, prompt, spec, meta, claim } = submission;
        // Check before noting anything under that id: it may be another job's.
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
            // Begins before the sync: a client that waits for the first token does not wait for the
            // disk.
            Ok(Some(claim)) if claim.spec.attached => {
                let written = Written::Claimed(Box::new(claim));
                self.tell(StoreEvent::Submitted { id: id.clone(), result: Ok(written) });
                self.pending.push((id, Pending::Begun));
            }
            // The client waits for the sync, and a busy engine would compete with it for the
            // processor.
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

    /// Checks that neither an unfinished job nor a session needs an ended job.
    fn may_be_removed(&mut self, id: &JobId) -> Result<(), Failure> {
        if let Some(by) = self.needed_by(id) {
            return Err(needed(id, &by));
        }
        match self.kept_by(id)? {
            Some(session) => Err(Failure::new(
                ErrorCode::WrongState,
                format!("session '{session}' needs job {id}: it is part of the conversation"),
            )
            .hint(format!("`threadrunner sessions rm {session}` removes the session"))),
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
            tracing::warn!(job = %id, %error, "cannot save the partial answer");
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
                // The owner has forgotten it. If it is still queued, the next listing must find it
                // again.
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
    Failure::new(ErrorCode::WrongState, format!("job {by} has not ended and still needs job {id}"))
        .hint(format!("remove it when {by} has ended, or run `threadrunner cancel {by}` first"))
}

fn not_claimed(id: &JobId) -> Failure {
    // Another program has moved or removed it.
    Failure::new(
        ErrorCode::JobNotFound,
        format!("job {id} is no longer in {}", JobState::Processing.directory()),
    )
}
