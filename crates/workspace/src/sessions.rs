//! Sessions: for each conversation, a file that names the last job of its chain.
//!
//! `.sessions/NAME.json` names the last turn, and the turns that were asked and have not ended. The
//! file is replaced atomically, and is on the disk before a turn's job can end. So however the
//! daemon ends, the file and the states of its jobs together say where the conversation continues.
//! What was said is in the jobs alone.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use threadrunner_core::{
    JobId, JobMeta, JobState, SESSION_VERSION, SessionFile, SessionName, TurnStanding,
};

use crate::files::{ReadError, job_dir};
use crate::layout::{open_dir, open_root};
use crate::{Durability, Reader, Result, Workspace, WorkspaceError, job_files, listing};

/// In the workspace: a file for each session.
const SESSIONS_DIR: &str = ".sessions";

/// The turns of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// The jobs of the turns, in the order in which they were asked.
    pub turns: Vec<JobId>,
    /// The turn before the first of them, if its job is gone.
    pub missing: Option<JobId>,
}

/// A session's file that could not be written.
#[derive(Debug)]
pub struct UnwrittenSession {
    /// The session.
    pub name: SessionName,
    /// Why its file could not be written.
    pub error: WorkspaceError,
}

impl Workspace {
    /// Prepares a session's file. If no turn is left in it, the file is removed instead.
    pub fn stage_session(&mut self, name: &SessionName, file: &SessionFile) {
        self.sessions.insert(name.clone(), file.clone());
    }

    /// Writes the prepared session files now. Those that cannot be written stay prepared.
    pub fn publish_sessions(&mut self) -> Vec<UnwrittenSession> {
        if self.sessions.is_empty() {
            return Vec::new();
        }
        let staged = std::mem::take(&mut self.sessions);
        let mut unwritten = Vec::new();
        for (name, error) in self.write_sessions(&staged) {
            if let Some(file) = staged.get(&name) {
                self.sessions.insert(name.clone(), file.clone());
            }
            unwritten.push(UnwrittenSession { name, error });
        }
        unwritten
    }

    /// Writes a session's file at once, instead of the prepared one, and syncs it.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn replace_session(&mut self, name: &SessionName, file: &SessionFile) -> Result<()> {
        let (dir, path) = self.sessions_dir()?;
        self.write_file(&dir, &path, name, file)?;
        self.sessions.remove(name);
        self.fs.sync(dir.as_fd()).map_err(|error| WorkspaceError::io("sync", &path, error))
    }

    /// Removes a session's file and syncs the removal. Its jobs stay.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn remove_session(&mut self, name: &SessionName) -> Result<()> {
        self.sessions.remove(name);
        let (dir, path) = self.sessions_dir()?;
        self.remove_file(&dir, &path, name)?;
        self.fs.sync(dir.as_fd()).map_err(|error| WorkspaceError::io("sync", &path, error))
    }

    fn write_sessions(
        &self,
        staged: &BTreeMap<SessionName, SessionFile>,
    ) -> Vec<(SessionName, WorkspaceError)> {
        let all = |error: &WorkspaceError| {
            staged.keys().map(|name| (name.clone(), error.duplicate())).collect()
        };
        let (dir, path) = match self.sessions_dir() {
            Ok(dir) => dir,
            Err(error) => return all(&error),
        };
        let mut unwritten = Vec::new();
        for (name, file) in staged {
            let written = match file.last() {
                Some(_) => self.write_file(&dir, &path, name, file),
                None => self.remove_file(&dir, &path, name),
            };
            unwritten.extend(written.err().map(|error| (name.clone(), error)));
        }
        if self.options.durability == Durability::Durable
            && let Err(error) = self.fs.sync(dir.as_fd())
        {
            return all(&WorkspaceError::io("sync", path, error));
        }
        unwritten
    }

    fn write_file(
        &self,
        dir: &OwnedFd,
        path: &Path,
        name: &SessionName,
        file: &SessionFile,
    ) -> Result<()> {
        let (now, next) = (file_name(name), format!("{}.tmp", file_name(name)));
        let dir = job_dir(dir, path.to_owned());
        let file = dir.write(&*self.fs, &next, &job_files::pretty(file, "a session's file")?)?;
        // Synced with every durability: an empty file after a power failure would lose what no job
        // can restore.
        self.fs.sync(file.as_fd()).map_err(|error| dir.io("sync", &next, error))?;
        dir.replace(&*self.fs, &next, &now)
    }

    fn remove_file(&self, dir: &OwnedFd, path: &Path, name: &SessionName) -> Result<()> {
        job_dir(dir, path.to_owned()).remove(&*self.fs, &file_name(name))
    }

    fn sessions_dir(&self) -> Result<(OwnedFd, PathBuf)> {
        let path = self.path().join(SESSIONS_DIR);
        let io = |verb, error: std::io::Error| WorkspaceError::io(verb, &path, error);
        let root = open_root(self.path())?;
        let dir = match open_dir(root.as_fd(), SESSIONS_DIR) {
            Err(Errno::NOENT) => {
                self.fs.make_dir(root.as_fd(), SESSIONS_DIR).map_err(|e| io("create", e))?;
                self.fs.sync(root.as_fd()).map_err(|e| io("sync", e))?;
                open_dir(root.as_fd(), SESSIONS_DIR)
            }
            opened => opened,
        };
        let dir = dir.map_err(|error| io("open", error.into()))?;
        Ok((dir, path))
    }
}

impl Reader {
    /// The names of all sessions, in no particular order.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn session_names(&self) -> Result<Vec<SessionName>> {
        let mut names = Vec::new();
        if let Some((dir, path)) = self.sessions_dir()? {
            listing::for_each_entry(dir.as_fd(), |name, _| {
                let name =
                    name.strip_suffix(".json").and_then(|name| SessionName::parse(name).ok());
                names.extend(name);
            })
            .map_err(|error| WorkspaceError::io("list", path, error))?;
        }
        Ok(names)
    }

    /// A session as described by its file; `None` if there is no session of that name.
    ///
    /// # Errors
    /// [`WorkspaceError::UnfitSession`] when the file cannot be understood; [`WorkspaceError::Io`].
    pub fn session_file(&self, name: &SessionName) -> Result<Option<SessionFile>> {
        let Some((dir, path)) = self.sessions_dir()? else { return Ok(None) };
        let file = file_name(name);
        let unfit =
            |reason: String| WorkspaceError::UnfitSession { path: path.join(&file), reason };
        let dir = job_dir(&dir, path.clone());
        let bytes = match dir.read(&file) {
            Ok(None) => return Ok(None),
            Ok(Some(bytes)) => bytes,
            Err(ReadError::Unfit(reason)) => return Err(unfit(reason)),
            Err(ReadError::Io(error)) => return Err(dir.io("read", &file, error)),
        };
        let session: SessionFile =
            serde_json::from_slice(&bytes).map_err(|error| unfit(error.to_string()))?;
        if session.v > SESSION_VERSION {
            let known = SESSION_VERSION;
            return Err(unfit(format!("it has version {}, newer than {known}", session.v)));
        }
        Ok(Some(session))
    }

    /// The current state of a session: its file, updated with the turns that have ended since.
    /// `None` if there is no such session, or no turn is left in it.
    ///
    /// # Errors
    /// As [`Reader::session_file`].
    pub fn session(&self, name: &SessionName) -> Result<Option<SessionFile>> {
        let mut session = self.session_file(name)?;
        if let Some(session) = &mut session {
            session.settle(None, |turn| self.turn_standing(turn));
        }
        Ok(session.filter(|session| session.last().is_some()))
    }

    /// Whether a turn that was asked is done, void or still open.
    pub fn turn_standing(&self, turn: &JobId) -> TurnStanding {
        match self.locate(turn) {
            Ok((JobState::Done, _)) => TurnStanding::Done,
            Ok((JobState::Failed, _)) | Err(WorkspaceError::NotFound { .. }) => TurnStanding::Void,
            // An unreadable job counts as open, so that it is looked at again.
            Ok(_) | Err(_) => TurnStanding::Open,
        }
    }

    /// The turns that lead to `head`, including itself, as far back as their jobs exist.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn chain(&self, head: &JobId) -> Result<Chain> {
        let mut chain = Chain::default();
        // Ends even if somebody tied the chain into a loop by hand.
        let mut seen = HashSet::new();
        let mut next = Some(head.clone());
        while let Some(turn) = next {
            if !seen.insert(turn.clone()) {
                chain.missing = Some(turn);
                break;
            }
            match self.answered(&turn)? {
                Some(meta) => {
                    next = meta.parent;
                    chain.turns.push(turn);
                }
                None => {
                    chain.missing = Some(turn);
                    break;
                }
            }
        }
        chain.turns.reverse();
        Ok(chain)
    }

    /// The `meta.json` of a job that is done; `None` if there is no such job.
    fn answered(&self, turn: &JobId) -> Result<Option<JobMeta>> {
        let Some(fd) = self.layout().open_job(JobState::Done, turn)? else { return Ok(None) };
        let dir = job_dir(&fd, self.layout().job_path(JobState::Done, turn));
        job_files::load_meta(&dir).map(Some)
    }

    fn sessions_dir(&self) -> Result<Option<(OwnedFd, PathBuf)>> {
        let path = self.path().join(SESSIONS_DIR);
        let root = open_root(self.path())?;
        match open_dir(root.as_fd(), SESSIONS_DIR) {
            Ok(dir) => Ok(Some((dir, path))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(WorkspaceError::io("open", path, error)),
        }
    }
}

fn file_name(name: &SessionName) -> String {
    format!("{name}.json")
}
