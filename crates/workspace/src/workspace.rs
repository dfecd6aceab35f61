//! [`Workspace`], the owner: opening, locking, and the sync that applies a group of changes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{CWD, OFlags};
use threadrunner_core::{JobId, JobIdSource, JobState, SessionFile, SessionName};

use crate::fs::{Disk, FileSystem};
use crate::layout::{LOCK_FILE, Layout, kind, name_of};
use crate::redo::RedoLog;
use crate::staged::{self, Gone, Staged, Synced, Unsynced};
use crate::{Reader, Recovered, Result, WorkspaceError};

/// What a change must survive before a client is told about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// A power failure.
    #[default]
    Durable,
    /// The daemon's death, however sudden. A power failure may lose the change.
    Relaxed,
}

/// How to run a workspace.
#[derive(Debug, Clone)]
pub struct Options {
    /// What a change must survive before a client is told about it.
    pub durability: Durability,
    /// The maximum number of attempts for jobs that set none of their own.
    pub max_attempts: u32,
    /// The number of this machine, for the ids that [`Workspace::next_id`] makes.
    pub machine: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { durability: Durability::Durable, max_attempts: 3, machine: 0 }
    }
}

/// A workspace and the lock that makes this process its only owner.
///
/// Operations only prepare changes. [`Workspace::sync`] applies everything prepared since the last
/// sync, and no client may be told of a change before that. So the owner performs the operations
/// that have gathered, syncs once, and then answers every client. A sync reports each change that
/// it could not make, and makes the others.
///
/// An operation on a job that already has a prepared change syncs first. The next
/// [`Workspace::sync`] then reports both.
#[derive(Debug)]
pub struct Workspace {
    pub(crate) layout: Arc<Layout>,
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) options: Options,
    pub(crate) staged: Vec<Staged>,
    carried: Synced,
    pub(crate) unsynced: Unsynced,
    /// Whether hook notes were made since the last sync.
    pub(crate) hooks_unsynced: bool,
    /// Session files to write at the next sync.
    pub(crate) sessions: BTreeMap<SessionName, SessionFile>,
    ids: JobIdSource,
    /// The time up to which `.newest` covers ids, in microseconds since 1970.
    pub(crate) ids_noted: u64,
    /// Holds the lock. The system releases it however this process ends.
    _lock: File,
}

impl Workspace {
    /// Opens the workspace at `path`, creating it if necessary, and recovers what the last owner
    /// left.
    ///
    /// # Errors
    /// [`WorkspaceError::Locked`] when another process owns it; [`WorkspaceError::Io`] when it
    /// cannot be created or read. A job that cannot be recovered is not an error:
    /// [`Recovered::troubles`] lists it.
    pub fn open(path: &Path, options: Options, now: SystemTime) -> Result<(Self, Recovered)> {
        Self::open_on(Arc::new(Disk), path, options, now)
    }

    /// Like [`Workspace::open`], but makes all changes to the disk through `fs`.
    ///
    /// # Errors
    /// As [`Workspace::open`].
    pub fn open_on(
        fs: Arc<dyn FileSystem>,
        path: &Path,
        options: Options,
        now: SystemTime,
    ) -> Result<(Self, Recovered)> {
        let ids = JobIdSource::new(std::process::id(), options.machine);
        let layout = Layout::create(path, &*fs)?;
        let lock = lock(layout.root())?;
        let (redo, lost) = RedoLog::open(&layout, &*fs, now)?;
        let mut workspace = Self {
            layout: Arc::new(layout),
            fs,
            options,
            staged: Vec::new(),
            carried: Synced::default(),
            unsynced: Unsynced::new(redo),
            hooks_unsynced: false,
            sessions: BTreeMap::new(),
            ids,
            ids_noted: 0,
            _lock: lock,
        };
        let recovered = workspace.recover(lost, now)?;
        Ok((workspace, recovered))
    }

    /// Whether [`Workspace::rest`] has something to do.
    pub fn is_restless(&self) -> bool {
        self.unsynced.redo.held() > 0
    }

    /// Empties the redo log when there is time, so that the directories alone describe every job. A
    /// job that somebody then removes by hand does not come back after a power failure. Does
    /// nothing while other programs have too much unwritten data to wait for: try again later.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`]. Nothing is lost.
    pub fn rest(&mut self) -> Result<()> {
        self.unsynced.empty_redo_cheaply(&self.layout, &*self.fs)
    }

    /// The workspace's absolute path.
    pub fn path(&self) -> &Path {
        self.layout.root()
    }

    /// A reader, usable from any thread.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.layout))
    }

    /// A new id, later than every id made or found before, even if the clock went back.
    pub fn next_id(&mut self, now: SystemTime) -> JobId {
        self.ids.next_at(now)
    }

    /// A source of ids later than all made or found so far, for a caller that makes them elsewhere.
    pub fn ids(&self) -> JobIdSource {
        self.ids.clone()
    }

    pub(crate) fn newest_micros(&self) -> u64 {
        self.ids.newest_micros()
    }

    pub(crate) fn ids_come_after(&mut self, id: &JobId) {
        self.ids.after(id);
    }

    /// Applies everything prepared since the last sync, and reports the outcome of each change.
    /// Deletes the files of removed jobs, as far as that succeeds.
    pub fn sync(&mut self) -> Synced {
        let mut synced = self.sync_and_set_aside();
        synced.gone.retain(|gone| gone.delete().is_err());
        synced
    }

    /// Like [`Workspace::sync`], but leaves the files of removed jobs in [`Synced::gone`].
    pub fn sync_and_set_aside(&mut self) -> Synced {
        let mut synced = std::mem::take(&mut self.carried);
        let mut group = std::mem::take(&mut self.staged);
        self.sync_sessions(&mut group, &mut synced);
        if group.is_empty() {
            return synced;
        }
        let ready = self.sync_hooks().and_then(|()| {
            staged::take_back_removed(&self.layout, &*self.fs, &group, &mut self.unsynced)
        });
        if let Err(error) = ready {
            self.give_up(group, &error, &mut synced);
            return synced;
        }
        let durable = self.options.durability == Durability::Durable;
        if durable
            && let Err(error) =
                staged::sync_contents(&self.layout, &*self.fs, &group, &mut self.unsynced)
        {
            self.give_up(group, &error, &mut synced);
            return synced;
        }
        let mut settling = Vec::new();
        for mut staged in group {
            let published = staged::publish(
                &self.layout,
                &*self.fs,
                &mut staged,
                &mut self.unsynced,
                &mut synced.replaced,
            );
            match published {
                Ok(()) if staged.settle => settling.push(staged),
                Ok(()) => synced.done.push((staged.id, staged.route.last().copied())),
                Err(error) => {
                    self.withdraw(&staged);
                    synced.failed.push((staged.id, error));
                }
            }
        }
        if settling.is_empty() {
            return synced;
        }
        if durable
            && let Err(error) = staged::sync_moves(&self.layout, &*self.fs, &mut self.unsynced)
        {
            self.give_up(settling, &error, &mut synced);
            return synced;
        }
        for staged in settling {
            if staged.discard {
                let (layout, fs) = (Arc::clone(&self.layout), Arc::clone(&self.fs));
                synced.gone.push(Gone { id: staged.id.clone(), layout, fs });
            }
            synced.done.push((staged.id, staged.route.last().copied()));
        }
        synced
    }

    /// Writes the session files before the jobs of their turns can run. A turn whose session file
    /// cannot be written is not accepted.
    fn sync_sessions(&mut self, group: &mut Vec<Staged>, synced: &mut Synced) {
        for unwritten in self.publish_sessions() {
            let Some(file) = self.sessions.get(&unwritten.name) else { continue };
            let (lost, others): (Vec<_>, Vec<_>) = std::mem::take(group)
                .into_iter()
                .partition(|staged| staged.new && file.pending.contains(&staged.id));
            *group = others;
            self.give_up(lost, &unwritten.error, synced);
            synced.unwritten.push(unwritten);
        }
    }

    fn give_up(&mut self, group: Vec<Staged>, error: &WorkspaceError, synced: &mut Synced) {
        for staged in group {
            self.withdraw(&staged);
            synced.failed.push((staged.id, error.duplicate()));
        }
    }

    fn withdraw(&mut self, staged: &Staged) {
        if staged.new {
            let id = std::slice::from_ref(&staged.id);
            let _ = self.unsynced.redo.settle(&self.layout, &*self.fs, id);
            // Its client is told that there is no such job, so leave none. If this fails too, the
            // job runs with nobody waiting: better than losing one.
            let _ = staged::withdraw(&self.layout, &*self.fs, staged.at, &staged.id);
        } else if staged.at == JobState::Ready {
            // An attempt that never began does not count.
            let _ = staged::forget_attempt(&self.layout, &*self.fs, &staged.id);
        }
    }

    /// Syncs if this job has a prepared change.
    pub(crate) fn flush(&mut self, id: &JobId) {
        if self.staged.iter().any(|staged| staged.id == *id) {
            self.carried = self.sync_and_set_aside();
        }
    }

    /// Opens a job's directory in `state`, or says which state the job is in instead.
    pub(crate) fn open_in(
        &self,
        state: JobState,
        id: &JobId,
        wanted: &'static str,
    ) -> Result<OwnedFd> {
        if let Some(fd) = self.layout.open_job(state, id)? {
            return Ok(fd);
        }
        let elsewhere = JobState::ALL[1..].iter().find(|&&at| self.layout.holds(at, id));
        Err(match elsewhere {
            Some(&at) => WorkspaceError::WrongState { id: id.clone(), state: at, wanted },
            None => staged::not_found(&self.layout, id),
        })
    }
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK_FILE);
    let failed = |error| WorkspaceError::io("open", &path, error);
    // Neither follow a link, which leads elsewhere, nor wait on a named pipe.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(&path);
    if let Some(kind) = kind(CWD, &path).filter(|kind| !kind.is_file()) {
        let what = format!("it is {}, not a file: move it away", name_of(kind));
        return Err(failed(std::io::Error::other(what)));
    }
    let file = opened.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(WorkspaceError::Locked { path: root.to_owned() }),
        Err(TryLockError::Error(error)) => Err(WorkspaceError::io("lock", &path, error)),
    }
}
