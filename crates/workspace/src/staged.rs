//! Work that is written but not yet true, and the sync that makes it true.
//!
//! Each change of a job's state is prepared beside what holds now: a submission in
//! `input/writing`, a new `job.json` or `meta.json` under a temporary name, an answer in a file
//! that nobody reads yet. One sync then puts the preparations of a whole group on the disk, and
//! only after it the renames follow which make them visible. So no rename ever shows a file that
//! a power failure could empty, and one sync serves many jobs.
//!
//! The renames themselves ride along with the next sync. When the power fails before that, a
//! submission is found whole in `input/writing`, and a finished job whole in `processing`, and
//! recovery repeats the rename. Where nothing could repeat it (a cancellation, a retry, a
//! removal), `settle` asks for a second sync.

use std::os::fd::AsFd;

use threadrunner_core::{JobId, JobState};

use crate::files::job_dir;
use crate::fs::FileSystem;
use crate::layout::{Layout, open_dir};
use crate::{Durability, Result, WorkspaceError};

/// One job's prepared change.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) id: JobId,
    /// Where its directory is.
    pub(crate) at: JobState,
    /// Files written for this change.
    pub(crate) written: Vec<&'static str>,
    /// Files to take the place of others, in this order, before the job moves.
    pub(crate) replace: Vec<(&'static str, &'static str)>,
    /// Files to remove before the job moves.
    pub(crate) remove: Vec<&'static str>,
    /// Where the job moves, step by step.
    pub(crate) route: Vec<JobState>,
    /// Whether the job is removed altogether.
    pub(crate) discard: bool,
    /// Whether the renames must be on the disk too before anybody is told.
    pub(crate) settle: bool,
}

impl Staged {
    pub(crate) fn new(id: JobId, at: JobState) -> Self {
        Self {
            id,
            at,
            written: Vec::new(),
            replace: Vec::new(),
            remove: Vec::new(),
            route: Vec::new(),
            discard: false,
            settle: false,
        }
    }
}

/// What a sync made true.
#[must_use = "a client may be told of its job only when the job is not among the failed"]
#[derive(Debug, Default)]
pub struct Synced {
    /// Jobs whose changes are done and would survive a power failure (where the durability is
    /// [`Durability::Durable`]), and the state they are in; `None` for one that was removed.
    pub done: Vec<(JobId, Option<JobState>)>,
    /// Jobs whose changes are not done. A submission among them is gone; any other job is where
    /// it was.
    pub failed: Vec<(JobId, WorkspaceError)>,
}

impl Synced {
    /// Takes the error of a job, if its change failed.
    pub fn take_error(&mut self, id: &JobId) -> Option<WorkspaceError> {
        let index = self.failed.iter().position(|(failed, _)| failed == id)?;
        Some(self.failed.swap_remove(index).1)
    }

    pub(crate) fn append(&mut self, mut later: Self) {
        self.done.append(&mut later.done);
        self.failed.append(&mut later.failed);
    }
}

/// Puts the preparations of a group on the disk.
pub(crate) fn sync_contents(layout: &Layout, fs: &dyn FileSystem, group: &[Staged]) -> Result<()> {
    if group.iter().all(|staged| staged.written.is_empty()) {
        return Ok(());
    }
    sync_everything(layout, fs).or_else(|_| sync_each(layout, fs, group))
}

/// Puts the renames of a group on the disk.
pub(crate) fn sync_moves(layout: &Layout, fs: &dyn FileSystem) -> Result<()> {
    sync_everything(layout, fs).or_else(|_| {
        JobState::ALL.into_iter().try_for_each(|state| {
            fs.sync(layout.dir(state))
                .map_err(|error| WorkspaceError::io("sync", layout.path(state), error))
        })
    })
}

fn sync_everything(layout: &Layout, fs: &dyn FileSystem) -> Result<()> {
    fs.sync_all(layout.dir(JobState::Writing))
        .map_err(|error| WorkspaceError::io("sync", layout.root(), error))
}

fn sync_each(layout: &Layout, fs: &dyn FileSystem, group: &[Staged]) -> Result<()> {
    for staged in group {
        let Some(fd) = layout.open_job(staged.at, &staged.id)? else { continue };
        let dir = job_dir(&fd, layout.job_path(staged.at, &staged.id));
        for &name in &staged.written {
            // One deleted by hand fails at its rename; the others need not.
            if let Ok(Some((file, _))) = dir.open(name) {
                fs.sync(file.as_fd()).map_err(|error| dir.io("sync", name, error))?;
            }
        }
        fs.sync(fd.as_fd()).map_err(|error| dir.io("sync", ".", error))?;
    }
    fs.sync(layout.dir(JobState::Writing))
        .map_err(|error| WorkspaceError::io("sync", layout.path(JobState::Writing), error))
}

/// Moves a job: one rename. Nothing else in ThreadRunner renames a job.
///
/// # Errors
/// [`WorkspaceError::WrongState`] for a move that is not in the table, and what the rename says.
pub(crate) fn move_job(
    layout: &Layout,
    fs: &dyn FileSystem,
    id: &JobId,
    from: JobState,
    to: JobState,
) -> Result<()> {
    if !from.may_become(to) {
        return Err(WorkspaceError::WrongState {
            id: id.clone(),
            state: from,
            wanted: to.as_str(),
        });
    }
    let name = id.as_str();
    fs.rename((layout.dir(from), name), (layout.dir(to), name), false).map_err(|error| match error
        .kind()
    {
        std::io::ErrorKind::NotFound => not_found(layout, id),
        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::DirectoryNotEmpty => {
            WorkspaceError::Exists { id: id.clone(), state: to }
        }
        _ => WorkspaceError::io("move", layout.job_path(from, id), error),
    })
}

/// Makes one prepared change visible.
pub(crate) fn publish(layout: &Layout, fs: &dyn FileSystem, staged: &Staged) -> Result<()> {
    if !(staged.replace.is_empty() && staged.remove.is_empty()) {
        let Some(fd) = layout.open_job(staged.at, &staged.id)? else {
            return Err(not_found(layout, &staged.id));
        };
        let dir = job_dir(&fd, layout.job_path(staged.at, &staged.id));
        for &(next, name) in &staged.replace {
            fs.rename((dir.fd, next), (dir.fd, name), true)
                .map_err(|error| dir.io("replace", name, error))?;
        }
        for &name in &staged.remove {
            dir.remove(fs, name)?;
        }
    }
    let mut at = staged.at;
    for &to in &staged.route {
        move_job(layout, fs, &staged.id, at, to)?;
        at = to;
    }
    if staged.discard {
        let gone = gone_name(&staged.id);
        // Leaves the state in one instant, and what a crash leaves of it is no job's name.
        fs.rename(
            (layout.dir(staged.at), staged.id.as_str()),
            (layout.dir(JobState::Writing), &gone),
            false,
        )
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => not_found(layout, &staged.id),
            _ => WorkspaceError::io("remove", layout.job_path(staged.at, &staged.id), error),
        })?;
    }
    Ok(())
}

/// Whether the durability asks for syncs at all.
pub(crate) fn syncs(durability: Durability) -> bool {
    durability == Durability::Durable
}

pub(crate) fn not_found(layout: &Layout, id: &JobId) -> WorkspaceError {
    WorkspaceError::NotFound { job: id.to_string(), workspace: layout.root().to_owned() }
}

const GONE: &str = ".gone";

/// The name in `input/writing` of a job that is being deleted.
pub(crate) fn gone_name(id: &JobId) -> String {
    format!("{id}{GONE}")
}

/// Whether a name in `input/writing` is that of a job that is being deleted.
pub(crate) fn is_gone(name: &str) -> bool {
    name.strip_suffix(GONE).is_some_and(|id| JobId::parse(id).is_ok())
}

/// Deletes a directory in `input/writing` with all it holds, following no links.
pub(crate) fn delete(layout: &Layout, fs: &dyn FileSystem, name: &str) -> Result<()> {
    let writing = layout.dir(JobState::Writing);
    delete_tree(fs, writing, name, MAX_DEPTH).map_err(|error| {
        WorkspaceError::io("delete", layout.path(JobState::Writing).join(name), error)
    })
}

/// Deeper than any job; a bound on the recursion, and on the directories open at once.
const MAX_DEPTH: u32 = 32;

fn delete_tree(
    fs: &dyn FileSystem,
    parent: std::os::fd::BorrowedFd<'_>,
    name: &str,
    depth: u32,
) -> std::io::Result<()> {
    use rustix::io::Errno;
    let dir = match open_dir(parent, name) {
        Ok(dir) if depth > 0 => dir,
        Ok(_) => return Err(std::io::Error::other("directories too deep in each other")),
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return fs.remove_file(parent, name),
        Err(error) => return Err(error.into()),
    };
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name().to_str().map_err(std::io::Error::other)?;
        if matches!(name, "." | "..") {
            continue;
        }
        delete_tree(fs, dir.as_fd(), name, depth - 1)?;
    }
    fs.remove_dir(parent, name)
}
