//! Prepared changes, and the sync that applies them.
//!
//! Each change of a job's state is prepared next to what holds now: a submission in
//! `input/writing`, a new `job.json` or `meta.json` under a temporary name, an answer in a file
//! that nobody reads yet. One sync then puts the preparations of a whole group on the disk, and
//! only after that do renames make them visible. So no rename ever exposes a file that a power
//! failure could empty, and many jobs share one sync. A group of nothing but submissions waits for
//! the redo log instead: after a power failure its directories may be torn, until the next owner
//! has written them again.
//!
//! The renames themselves reach the disk with the next sync. If the power fails before that,
//! recovery finds a submission in `input/writing` or in the log, and a finished job complete in
//! `processing`, and repeats the rename. For a rename that recovery cannot repeat (a cancellation,
//! a retry, a removal), `settle` asks for a second sync.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use threadrunner_core::{JobId, JobState};

use crate::files::{ReadError, job_dir};
use crate::fs::FileSystem;
use crate::layout::{self, JOB_NEXT, Layout, SUBMISSION_FILES};
use crate::redo::RedoLog;
use crate::tree::delete_writing;
use crate::{Result, UnwrittenSession, WorkspaceError, newest_jobs};

/// One job's prepared change.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) id: JobId,
    /// The state whose directory the job is in.
    pub(crate) at: JobState,
    /// Files written for this change.
    pub(crate) written: Vec<&'static str>,
    /// Files to rename over others before the job moves, in this order: from, to.
    pub(crate) replace: Vec<(&'static str, &'static str)>,
    /// Files to remove before the job moves.
    pub(crate) remove: Vec<&'static str>,
    /// The states that the job moves through, in order.
    pub(crate) route: Vec<JobState>,
    /// Whether no client has been told of the job yet.
    pub(crate) new: bool,
    /// The entry for the redo log, if that is enough for the job to survive a power failure.
    pub(crate) entry: Option<Vec<u8>>,
    /// Whether to remove the job altogether.
    pub(crate) discard: bool,
    /// Whether the renames must be on the disk too before a client is told.
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
            new: false,
            entry: None,
            discard: false,
            settle: false,
        }
    }
}

/// What a sync did.
#[must_use = "a client may be told of its job only when the job is not among the failed"]
#[derive(Debug, Default)]
pub struct Synced {
    /// Jobs whose changes were made, and their new states; `None` for a job that was removed. With
    /// [`Durability::Durable`](crate::Durability::Durable), the changes survive a power failure.
    pub done: Vec<(JobId, Option<JobState>)>,
    /// Jobs whose changes were not made. A submission among them is gone; any other job is where it
    /// was.
    pub failed: Vec<(JobId, WorkspaceError)>,
    /// The files of removed jobs, to delete: with [`Gone::delete`], on any thread.
    pub gone: Vec<Gone>,
    /// Sessions whose files are not written yet. The next sync tries again.
    pub unwritten: Vec<UnwrittenSession>,
    /// Replaced files, held open. The file system frees a file when its last handle closes, and may
    /// have to wait for its journal to do so. Drop this after every client was told, so that none
    /// waits for that.
    pub(crate) replaced: Vec<OwnedFd>,
}

/// The files of a job that is removed already, set aside in `input/writing`. If nobody deletes
/// them, the next opening of the workspace does.
#[derive(Debug)]
pub struct Gone {
    pub(crate) id: JobId,
    pub(crate) layout: Arc<Layout>,
    pub(crate) fs: Arc<dyn FileSystem>,
}

impl Gone {
    /// The id that the job had.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// Deletes the files. This may take long: another program can put any number of them there.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`] when some cannot be deleted. They stay.
    pub fn delete(&self) -> Result<()> {
        delete_writing(&self.layout, &*self.fs, &gone_name(&self.id))
    }
}

/// The maximum number of replaced files to hold open.
const MAX_REPLACED: usize = 64;

impl Synced {
    /// Takes a job's error, if its change failed.
    pub fn take_error(&mut self, id: &JobId) -> Option<WorkspaceError> {
        let index = self.failed.iter().position(|(failed, _)| failed == id)?;
        Some(self.failed.swap_remove(index).1)
    }
}

/// What has changed since the last sync.
#[derive(Debug)]
pub(crate) struct Unsynced {
    /// The states whose directories changed.
    changed: [bool; JobState::ALL.len()],
    /// How many bytes of other programs' data the next sync may wait for.
    patience: u64,
    /// The redo log, which knows what would survive a power failure anyway.
    pub(crate) redo: RedoLog,
}

/// What syncing one file costs, in bytes that could be written meanwhile.
///
/// One sync of everything is cheap unless other programs have much unwritten data, which it has to
/// wait for. Each file that is synced by itself instead adds this much to the patience. Once the
/// patience exceeds the data of the others, one wait for it is cheaper than going on, because it
/// leaves little to wait for afterwards.
const BYTES_PER_SYNC: u64 = 4 << 20;

/// The initial patience, in bytes: a few hundredths of a second of writing.
const LEAST_PATIENCE: u64 = 32 << 20;

impl Unsynced {
    pub(crate) fn new(redo: RedoLog) -> Self {
        Self { changed: Default::default(), patience: LEAST_PATIENCE, redo }
    }

    fn add(&mut self, state: JobState) {
        self.changed[state as usize] = true;
    }

    fn states(&self) -> impl Iterator<Item = JobState> {
        JobState::ALL.into_iter().filter(|&state| self.changed[state as usize])
    }

    /// Syncs everything at once if that is cheaper than `files` single syncs. Returns whether it
    /// did.
    fn sync_everything(&mut self, layout: &Layout, fs: &dyn FileSystem, files: usize) -> bool {
        // A failure may concern another program's file, so the caller then syncs each of ours.
        self.is_cheaper_than(files, fs) && self.sync_all(layout, fs).is_ok()
    }

    fn is_cheaper_than(&mut self, files: usize, fs: &dyn FileSystem) -> bool {
        self.patience = self.patience.saturating_add(BYTES_PER_SYNC * files as u64);
        fs.unwritten_bytes().is_some_and(|bytes| bytes <= self.patience)
    }

    fn sync_all(&mut self, layout: &Layout, fs: &dyn FileSystem) -> Result<()> {
        self.redo.sync_all(layout, fs)?;
        self.changed = Default::default();
        self.patience = LEAST_PATIENCE;
        Ok(())
    }

    /// Puts on the disk what only the redo log has, and empties the log.
    pub(crate) fn empty_redo(&mut self, layout: &Layout, fs: &dyn FileSystem) -> Result<()> {
        if self.redo.held() > 0 {
            self.sync_all(layout, fs)?;
        }
        self.redo.settle(layout, fs, &[])
    }

    /// The same, but does nothing while other programs have too much unwritten data to wait for.
    pub(crate) fn empty_redo_cheaply(
        &mut self,
        layout: &Layout,
        fs: &dyn FileSystem,
    ) -> Result<()> {
        let files = self.redo.held() * SUBMISSION_FILES.len();
        if files > 0 && !self.is_cheaper_than(files, fs) {
            return Ok(());
        }
        self.empty_redo(layout, fs)
    }

    fn sync_dirs(&mut self, layout: &Layout, fs: &dyn FileSystem) -> Result<()> {
        for state in self.states() {
            fs.sync(layout.dir(state))
                .map_err(|error| WorkspaceError::io("sync", layout.path(state), error))?;
        }
        self.changed = Default::default();
        Ok(())
    }
}

/// Withdraws the redo log's entries for jobs about to be removed: they would bring the jobs back.
pub(crate) fn take_back_removed(
    layout: &Layout,
    fs: &dyn FileSystem,
    group: &[Staged],
    unsynced: &mut Unsynced,
) -> Result<()> {
    let removed = group.iter().filter(|staged| staged.discard).map(|staged| staged.id.clone());
    let removed: Vec<_> = removed.collect();
    if removed.is_empty() { Ok(()) } else { unsynced.redo.settle(layout, fs, &removed) }
}

/// Puts the preparations of a group on the disk.
pub(crate) fn sync_contents(
    layout: &Layout,
    fs: &dyn FileSystem,
    group: &[Staged],
    unsynced: &mut Unsynced,
) -> Result<()> {
    // One for each file, and one for the directory.
    let files = |staged: &Staged| match staged.written.len() {
        0 => 0,
        files => files + 1,
    };
    let files: usize = group.iter().map(files).sum();
    if files == 0 {
        return Ok(());
    }
    for staged in group.iter().filter(|staged| staged.at == JobState::Writing) {
        unsynced.add(staged.at);
    }
    let entries: Option<Vec<_>> =
        group.iter().map(|staged| Some((&staged.id, staged.entry.as_deref()?))).collect();
    // A group that is nothing but submissions need only be in the log.
    let logged = entries.is_some_and(|entries| unsynced.redo.append(layout, fs, &entries));
    if logged || unsynced.sync_everything(layout, fs, files) {
        return Ok(());
    }
    let mut open = Vec::new();
    for staged in group {
        // A job deleted by hand fails at its rename, without failing the others.
        let fd = match layout.open_job(staged.at, &staged.id) {
            Ok(Some(fd)) => fd,
            Ok(None) | Err(WorkspaceError::NotAJob { .. }) => continue,
            Err(error) => return Err(error),
        };
        let path = layout.job_path(staged.at, &staged.id);
        let dir = job_dir(&fd, path.clone());
        // Files that were left to the redo log are synced with the rest.
        let left: &[_] = if unsynced.redo.holds(&staged.id) { &SUBMISSION_FILES } else { &[] };
        for &name in staged.written.iter().chain(left) {
            match dir.open(name) {
                Ok(Some((file, _))) => {
                    // Start all before waiting for any, so that they share the slow part.
                    fs.start_sync(file.as_fd());
                    open.push((OwnedFd::from(file), path.join(name)));
                }
                Ok(None) | Err(ReadError::Unfit(_)) => {}
                Err(ReadError::Io(error)) => return Err(dir.io("open", name, error)),
            }
        }
        open.push((fd, path));
        if open.len() >= MAX_OPEN {
            sync_each(fs, &mut open)?;
        }
    }
    sync_each(fs, &mut open)?;
    unsynced.sync_dirs(layout, fs)?;
    let synced: Vec<_> = group.iter().map(|staged| staged.id.clone()).collect();
    unsynced.redo.settle(layout, fs, &synced)
}

/// Puts the renames of a group on the disk.
pub(crate) fn sync_moves(
    layout: &Layout,
    fs: &dyn FileSystem,
    unsynced: &mut Unsynced,
) -> Result<()> {
    let directories = unsynced.states().count();
    if unsynced.sync_everything(layout, fs, directories) {
        return Ok(());
    }
    unsynced.sync_dirs(layout, fs)
}

/// The maximum number of files that a sync holds open.
const MAX_OPEN: usize = 64;

fn sync_each(fs: &dyn FileSystem, open: &mut Vec<(OwnedFd, PathBuf)>) -> Result<()> {
    open.drain(..).try_for_each(|(file, path)| {
        fs.sync(file.as_fd()).map_err(|error| WorkspaceError::io("sync", path, error))
    })
}

/// Moves a job from one state to another, with one rename. Nothing else in ThreadRunner does.
///
/// # Errors
/// [`WorkspaceError::WrongState`] for a move that is not in the table;
/// [`WorkspaceError::NotFound`], [`WorkspaceError::Exists`] or [`WorkspaceError::Io`] when the
/// rename fails.
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
    let rename = || fs.rename((layout.dir(from), name), (layout.dir(to), name), false);
    let rename = || match to {
        JobState::Ready => layout.own_arrivals().put(id, rename),
        _ => rename(),
    };
    newest_jobs::note(layout, id, (from, to), rename).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => not_found(layout, id),
        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::DirectoryNotEmpty => {
            WorkspaceError::Exists { id: id.clone(), state: to }
        }
        _ => WorkspaceError::io("move", layout.job_path(from, id), error),
    })
}

/// Makes one prepared change visible. Updates `staged.at` as the job moves.
pub(crate) fn publish(
    layout: &Layout,
    fs: &dyn FileSystem,
    staged: &mut Staged,
    unsynced: &mut Unsynced,
    replaced: &mut Vec<OwnedFd>,
) -> Result<()> {
    if !(staged.replace.is_empty() && staged.remove.is_empty()) {
        let Some(fd) = layout.open_job(staged.at, &staged.id)? else {
            return Err(not_found(layout, &staged.id));
        };
        let dir = job_dir(&fd, layout.job_path(staged.at, &staged.id));
        for &(next, name) in &staged.replace {
            if replaced.len() < MAX_REPLACED {
                replaced.extend(layout::hold(dir.fd, name));
            }
            dir.replace(fs, next, name)?;
        }
        for &name in &staged.remove {
            dir.remove(fs, name)?;
        }
    }
    for &to in &staged.route {
        move_job(layout, fs, &staged.id, staged.at, to)?;
        unsynced.add(staged.at);
        unsynced.add(to);
        staged.at = to;
    }
    if staged.new && layout.own_arrivals().are_watched() {
        layout.recent().arrived(&staged.id);
    }
    if staged.discard {
        set_aside(layout, fs, staged.at, &staged.id)?;
        unsynced.add(staged.at);
        unsynced.add(JobState::Writing);
    }
    Ok(())
}

/// Undoes a failed submission, so that recovery does not find it.
pub(crate) fn withdraw(
    layout: &Layout,
    fs: &dyn FileSystem,
    at: JobState,
    id: &JobId,
) -> Result<()> {
    set_aside(layout, fs, at, id)?;
    delete_writing(layout, fs, &gone_name(id))
}

/// Removes the prepared attempt count of a queued job whose attempt did not begin.
pub(crate) fn forget_attempt(layout: &Layout, fs: &dyn FileSystem, id: &JobId) -> Result<()> {
    let Some(fd) = layout.open_job(JobState::Ready, id)? else { return Ok(()) };
    job_dir(&fd, layout.job_path(JobState::Ready, id)).remove(fs, JOB_NEXT)
}

/// Takes a job out of its state with one rename. What a crash leaves does not have a job's name.
fn set_aside(layout: &Layout, fs: &dyn FileSystem, at: JobState, id: &JobId) -> Result<()> {
    let gone = gone_name(id);
    let writing = JobState::Writing;
    let rename = || fs.rename((layout.dir(at), id.as_str()), (layout.dir(writing), &gone), false);
    newest_jobs::note(layout, id, (at, writing), rename).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => not_found(layout, id),
        _ => WorkspaceError::io("remove", layout.job_path(at, id), error),
    })
}

pub(crate) fn not_found(layout: &Layout, id: &JobId) -> WorkspaceError {
    WorkspaceError::NotFound { job: id.into(), workspace: layout.root().to_owned() }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Disk;

    #[test]
    fn a_move_that_is_not_in_the_table_is_not_made() {
        let temp = tempfile::tempdir().unwrap();
        let layout = Layout::create(temp.path(), &Disk).unwrap();
        let id = JobId::parse("1").unwrap();
        for from in JobState::ALL {
            for to in JobState::ALL {
                std::fs::create_dir(layout.job_path(from, &id)).unwrap();
                let moved = move_job(&layout, &Disk, &id, from, to);
                let is = if from.may_become(to) { to } else { from };
                assert_eq!(moved.is_ok(), is != from, "{from} {to}");
                assert!(layout.holds(is, &id), "{from} {to}");
                std::fs::remove_dir(layout.job_path(is, &id)).unwrap();
            }
        }
    }

    #[test]
    fn a_move_never_takes_the_place_of_a_job() {
        let temp = tempfile::tempdir().unwrap();
        let layout = Layout::create(temp.path(), &Disk).unwrap();
        let id = JobId::parse("1").unwrap();
        for state in [JobState::Ready, JobState::Processing] {
            std::fs::create_dir(layout.job_path(state, &id)).unwrap();
        }
        // Not even that of an empty directory, which rename(2) by itself would replace.
        let moved = move_job(&layout, &Disk, &id, JobState::Ready, JobState::Processing);
        assert!(matches!(moved, Err(WorkspaceError::Exists { .. })), "{moved:?}");
        assert!(layout.holds(JobState::Ready, &id));
    }
}
