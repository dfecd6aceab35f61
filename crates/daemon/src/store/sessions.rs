//! The workspace's part in conversations: which turn follows which, and which jobs a conversation
//! needs.
//!
//! Turns of one session run one after the other, however many clients submit them at once. Each
//! continues from the last turn answered before it begins, so none is lost, and none is answered
//! without knowing what was said before it.

use std::collections::HashSet;

use threadrunner_core::{
    ErrorCode, Failure, JobId, JobSpec, SessionFile, SessionName, TurnStanding, fnv,
};
use threadrunner_workspace::{Chain, Reader};

use super::conversation::{Conversation, not_the_last};
use super::keeper::Keeper;
use super::known::{RemovedSession, Undone};
use super::standing::standing;
use super::{Claim, Reply, Standing};

impl Keeper {
    /// Finishes what an earlier daemon could not: adds ended turns to their conversations.
    pub(super) fn recall_sessions(&mut self) {
        let reader = self.workspace.reader();
        let names = match reader.session_names() {
            Ok(names) => names,
            Err(error) => return tracing::warn!(%error, "cannot list the sessions"),
        };
        for name in names {
            match reader.session_file(&name) {
                Ok(Some(file)) if !file.pending.is_empty() => {
                    let mut turns = file.pending.clone();
                    self.sessions.known.insert(name.clone(), file);
                    self.settle(&name);
                    turns.retain(|turn| self.is_pending(&name, turn));
                    self.sessions.turns.extend(turns.into_iter().map(|id| (id, name.clone())));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(session = %name, %error, "left as it is"),
            }
        }
        self.publish_sessions();
    }

    fn is_pending(&self, name: &SessionName, turn: &JobId) -> bool {
        self.sessions.known.get(name).is_some_and(|file| file.pending.contains(turn))
    }

    fn session(&mut self, name: &SessionName) -> Result<Option<&mut SessionFile>, Failure> {
        if !self.sessions.known.contains_key(name)
            && let Some(file) = self.workspace.reader().session_file(name)?
        {
            self.sessions.known.insert(name.clone(), file);
        }
        Ok(self.sessions.known.get_mut(name))
    }

    /// Notes that a job is a turn of its session, if it has one; the note is on disk before the job
    /// can end. Returns the turn that it follows, if that has not ended.
    pub(super) fn ask_turn(
        &mut self,
        id: &JobId,
        spec: &JobSpec,
    ) -> Result<Option<JobId>, Failure> {
        let Some(name) = &spec.session else { return Ok(None) };
        let path = self.workspace.path().as_os_str().as_encoded_bytes().to_owned();
        if self.session(name)?.is_none() {
            let parts: [&[u8]; 3] = [&path, name.as_str().as_bytes(), id.as_str().as_bytes()];
            let new = SessionFile::new(fnv::name_of(&parts).into());
            self.sessions.known.insert(name.clone(), new);
        }
        let Some(file) = self.sessions.known.get_mut(name) else { return Ok(None) };
        if !file.pending.contains(id) {
            file.pending.push(id.clone());
            self.sessions.turns.insert(id.clone(), name.clone());
            self.workspace.stage_session(name, file);
        }
        Ok(file.before(id).cloned())
    }

    /// Like [`Keeper::ask_turn`], for a job that is being submitted. Refuses a job that replaces a
    /// turn other than the last.
    pub(super) fn ask_new_turn(
        &mut self,
        id: &JobId,
        spec: &JobSpec,
    ) -> Result<Option<JobId>, Failure> {
        if let (Some(name), Some(replaced)) = (&spec.session, &spec.replaces) {
            let file = self.session(name)?;
            let last = file.and_then(|file| file.last());
            if last != Some(replaced) {
                return Err(not_the_last(name, replaced));
            }
        }
        self.ask_turn(id, spec)
    }

    /// Takes back that a job is a turn: the job does not exist.
    pub(super) fn drop_turn(&mut self, id: &JobId) {
        let Some(name) = self.sessions.turns.remove(id) else { return };
        if let Some(file) = self.sessions.known.get_mut(&name) {
            file.pending.retain(|turn| turn != id);
            self.workspace.stage_session(&name, file);
        }
    }

    /// Adds an ended turn to its conversation, or drops it if it has no answer. Call it after the
    /// sync.
    pub(super) fn turn_ended(&mut self, id: &JobId) {
        if let Some(name) = self.sessions.turns.get(id).cloned() {
            self.settle(&name);
            if !self.is_pending(&name, id) {
                self.sessions.turns.remove(id);
            }
        }
    }

    fn settle(&mut self, name: &SessionName) {
        let reader = self.workspace.reader();
        let Some(file) = self.sessions.known.get_mut(name) else { return };
        if file.settle(None, |turn| turn_standing(turn, &reader)) {
            self.sessions.kept.remove(name);
            self.workspace.stage_session(name, file);
        }
    }

    /// Writes changed session files. Nothing waits for this: until then, the old files and the
    /// states of their turns say the same.
    pub(super) fn publish_sessions(&mut self) {
        for unwritten in self.workspace.publish_sessions() {
            let (session, error) = (unwritten.name, unwritten.error);
            tracing::warn!(%session, %error, "cannot write a session's file yet");
        }
    }

    /// Gives a beginning turn what was said before it.
    pub(super) fn begin_turn(&mut self, id: &JobId, claim: &mut Claim) -> Result<(), Failure> {
        let Some(name) = claim.spec.session.clone() else { return Ok(()) };
        let reader = self.workspace.reader();
        let file = self.session(&name)?.ok_or_else(|| {
            // Its file was removed since.
            Failure::new(ErrorCode::SessionNotFound, format!("session '{name}' no longer exists"))
        })?;
        // The turns before it have ended: otherwise it would be held.
        let changed = file.settle(Some(id), |turn| turn_standing(turn, &reader));
        if let Some(open) = file.before(id) {
            return Err(Failure::new(
                ErrorCode::WrongState,
                format!("job {open} comes before this one in session '{name}' and has not ended"),
            )
            .hint("`threadrunner retry` this one when that has ended"));
        }
        let (head, state) = (file.head.clone(), file.state.clone());
        if changed {
            let file = file.clone();
            self.sessions.kept.remove(&name);
            self.workspace.stage_session(&name, &file);
        }
        let said = Conversation::before(&name, head, claim.spec.replaces.as_ref(), &reader)?;
        claim.meta.parent = said.last;
        claim.spec.messages.splice(0..0, said.messages);
        claim.state = Some(state);
        Ok(())
    }

    /// Returns a session that needs a job: as a turn, or because a turn's prompt contains its
    /// answer.
    pub(super) fn kept_by(&mut self, id: &JobId) -> Result<Option<SessionName>, Failure> {
        self.look_at_sessions()?;
        let keeps = |(_, jobs): &(&SessionName, &HashSet<JobId>)| jobs.contains(id);
        Ok(self.sessions.kept.iter().find(keeps).map(|(name, _)| name.clone()))
    }

    /// Looks up the jobs that each conversation needs, if not known.
    pub(super) fn look_at_sessions(&mut self) -> Result<(), Failure> {
        let reader = self.workspace.reader();
        for name in reader.session_names()? {
            if !self.sessions.kept.contains_key(&name) {
                let jobs = self.jobs_of(&name, &reader)?;
                self.sessions.kept.insert(name, jobs);
            }
        }
        Ok(())
    }

    fn jobs_of(&mut self, name: &SessionName, reader: &Reader) -> Result<HashSet<JobId>, Failure> {
        let mut jobs = HashSet::new();
        let head = self.session(name)?.and_then(|file| file.head.clone());
        for turn in head.iter().map(|head| reader.chain(head)).collect::<Result<Vec<_>, _>>()? {
            for id in turn.turns {
                let spec = reader.spec(&id)?;
                if spec.template {
                    jobs.extend(spec.after);
                }
                jobs.insert(id);
            }
        }
        Ok(jobs)
    }

    /// Removes a session after the next sync.
    pub(super) fn remove_session(&mut self, name: SessionName, reply: Reply<RemovedSession>) {
        self.sessions.removals.push((name, reply));
    }

    pub(super) fn remove_sessions(&mut self) {
        for (name, reply) in std::mem::take(&mut self.sessions.removals) {
            // The client may be gone.
            let _ = reply.send(self.remove_one_session(&name));
        }
    }

    fn remove_one_session(&mut self, name: &SessionName) -> Result<RemovedSession, Failure> {
        let (file, chain) = self.at_rest(name)?;
        self.forget_session(name)?;
        Ok(RemovedSession { state: file.state, turns: chain.turns })
    }

    /// Undoes a session's last turn after the next sync.
    pub(super) fn undo_turn(&mut self, name: SessionName, reply: Reply<Undone>) {
        self.sessions.undos.push((name, reply));
    }

    pub(super) fn undo_turns(&mut self) {
        for (name, reply) in std::mem::take(&mut self.sessions.undos) {
            // The client may be gone.
            let _ = reply.send(self.undo_one_turn(&name));
        }
    }

    fn undo_one_turn(&mut self, name: &SessionName) -> Result<Undone, Failure> {
        let (file, mut chain) = self.at_rest(name)?;
        let before = chain.turns.iter().rev().nth(1).cloned();
        let (Some(turn), true) = (chain.turns.pop(), before.is_some() || chain.missing.is_none())
        else {
            return Err(Failure::new(
                ErrorCode::WrongState,
                format!("session '{name}' cannot go back: what was said before is gone"),
            )
            .hint(format!("`threadrunner sessions rm {name}` removes the session")));
        };
        let left = chain.turns.len();
        if before.is_none() {
            self.forget_session(name)?;
            return Ok(Undone { turn, left, forgotten: Some(file.state) });
        }
        let file = SessionFile { head: before, ..file };
        self.workspace.replace_session(name, &file)?;
        self.sessions.known.insert(name.clone(), file);
        self.sessions.kept.remove(name);
        Ok(Undone { turn, left, forgotten: None })
    }

    /// Returns a session in which no turn is queued or running, and its turns.
    fn at_rest(&mut self, name: &SessionName) -> Result<(SessionFile, Chain), Failure> {
        self.session(name)?;
        self.settle(name);
        let Some(file) = self.sessions.known.get(name).filter(|file| file.last().is_some()) else {
            return Err(no_such_session(name));
        };
        if let Some(open) = file.pending.first() {
            return Err(Failure::new(
                ErrorCode::WrongState,
                format!("job {open} is a turn of session '{name}' and has not ended"),
            )
            .hint(format!("wait for it, or `threadrunner cancel {open}`")));
        }
        let file = file.clone();
        let head = file.head.as_ref();
        let chain = head.map(|head| self.workspace.reader().chain(head)).transpose()?;
        Ok((file, chain.unwrap_or_default()))
    }

    fn forget_session(&mut self, name: &SessionName) -> Result<(), Failure> {
        self.workspace.remove_session(name)?;
        self.sessions.known.remove(name);
        self.sessions.kept.remove(name);
        Ok(())
    }
}

/// The failure for a request for a session that does not exist.
pub(crate) fn no_such_session(name: &SessionName) -> Failure {
    Failure::new(ErrorCode::SessionNotFound, format!("there is no session '{name}'"))
        .hint("see `threadrunner sessions` for what there is")
}

fn turn_standing(turn: &JobId, reader: &Reader) -> TurnStanding {
    match standing(turn, reader) {
        Standing::Done => TurnStanding::Done,
        Standing::Failed | Standing::Canceled | Standing::Missing => TurnStanding::Void,
        Standing::Open => TurnStanding::Open,
    }
}
