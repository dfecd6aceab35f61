//! Where everything is: the five directories of a workspace, and the files of a job.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use threadrunner_core::{JobId, JobState};

use crate::fs::FileSystem;
use crate::recent::Recent;
use crate::watch::OwnArrivals;
use crate::{Result, WorkspaceError};

/// The prompt, byte for byte.
pub const PROMPT_FILE: &str = "prompt.txt";
/// The kind of answer asked for.
pub const TYPE_FILE: &str = "type.txt";
/// Metadata about the job, for people and other programs.
pub const META_FILE: &str = "meta.json";
/// What ThreadRunner needs to run the job.
pub const JOB_FILE: &str = "job.json";
/// The answer, byte for byte.
pub const RESULT_FILE: &str = "result.txt";
/// What the answer holds beside its text: a list of [`Output`](threadrunner_core::Output).
pub const OUTPUT_FILE: &str = "output.json";
/// The answer of another program's embedding job.
pub const EMBEDDING_FILE: &str = "embedding.json";
/// The answer so far, while the job runs.
pub const PARTIAL_FILE: &str = "result.partial.txt";
/// Why the job failed.
pub const ERROR_FILE: &str = "error.txt";

/// The outcome of the program that ran when the job had ended (the hook).
pub const HOOK_FILE: &str = "on_done.json";
/// What the hook wrote to its output.
pub const HOOK_LOG_FILE: &str = "on_done.log";

/// The files of a submission.
pub(crate) const SUBMISSION_FILES: [&str; 3] = [PROMPT_FILE, META_FILE, JOB_FILE];

/// The next content of [`HOOK_FILE`], until it is renamed into place.
pub(crate) const HOOK_NEXT: &str = "on_done.json.tmp";
/// In the workspace: a note for each job with a hook that has not run yet.
pub(crate) const HOOKS_DIR: &str = ".hooks";

/// The next content of [`META_FILE`], until a sync renames it into place.
pub(crate) const META_NEXT: &str = "meta.json.tmp";
/// The next content of [`JOB_FILE`], likewise.
pub(crate) const JOB_NEXT: &str = "job.json.tmp";

/// The lock that the workspace's owner holds.
pub(crate) const LOCK_FILE: &str = ".lock";

/// In the workspace: the redo log, with submissions whose directories may not be on the disk yet.
pub(crate) const REDO_FILE: &str = ".redo";

/// For a directory that is listed or anchors other calls; never opened through a link.
const DIRECTORY: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::RDONLY).union(OFlags::CLOEXEC);

/// The open directories of one workspace.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    states: [OwnedFd; JobState::ALL.len()],
    recent: Recent,
    own_arrivals: OwnArrivals,
}

impl Layout {
    /// Creates whatever is missing of the workspace at `root`, accessible to its owner only.
    pub(crate) fn create(root: &Path, fs: &dyn FileSystem) -> Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(|source| WorkspaceError::io("create", root, source))?;
        let root = &absolute(root)?;
        let top = open_root(root)?;
        let mut made = false;
        for state in JobState::ALL {
            let mut dir = top.try_clone().map_err(|e| WorkspaceError::io("open", root, e))?;
            let mut path = root.to_owned();
            for name in state.directory().split('/') {
                path.push(name);
                if kind(dir.as_fd(), name).is_none() {
                    fs.make_dir(dir.as_fd(), name)
                        .map_err(|error| WorkspaceError::io("create", &path, error))?;
                    made = true;
                }
                dir = open_state(dir.as_fd(), name, &path)?;
            }
        }
        if made {
            sync_path_to(root, &top, fs)?;
        }
        Self::open(root)
    }

    /// Opens an existing workspace.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let root = absolute(root)?;
        let top = open_root(&root)?;
        let open = |state: JobState| {
            let path = root.join(state.directory());
            let mut parts = state.directory().split('/').peekable();
            let mut dir = open_state(top.as_fd(), parts.next().unwrap_or_default(), &path)?;
            for name in parts {
                dir = open_state(dir.as_fd(), name, &path)?;
            }
            Ok::<_, WorkspaceError>(dir)
        };
        let [writing, ready, processing, done, failed] = JobState::ALL;
        let states = [open(writing)?, open(ready)?, open(processing)?, open(done)?, open(failed)?];
        let (recent, own_arrivals) = Default::default();
        Ok(Self { root, states, recent, own_arrivals })
    }

    /// The workspace's absolute path.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The jobs that this process put into `input/ready`, which the watcher does not report.
    pub(crate) fn own_arrivals(&self) -> &OwnArrivals {
        &self.own_arrivals
    }

    /// Whether the workspace's path still leads to the open directories. An error other than a
    /// missing directory tells nothing, so it counts as yes.
    pub(crate) fn is_in_place(&self) -> bool {
        JobState::ALL.into_iter().all(|state| {
            let there = rustix::fs::stat(self.path(state));
            match (there, rustix::fs::fstat(self.dir(state))) {
                (Ok(there), Ok(open)) => (there.st_dev, there.st_ino) == (open.st_dev, open.st_ino),
                (Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP), _) => false,
                (Err(_), _) | (_, Err(_)) => true,
            }
        })
    }

    /// The remembered names in the states' directories.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// The open directory of a state.
    pub(crate) fn dir(&self, state: JobState) -> BorrowedFd<'_> {
        self.states[state as usize].as_fd()
    }

    /// The path of a state's directory.
    pub(crate) fn path(&self, state: JobState) -> PathBuf {
        self.root.join(state.directory())
    }

    /// The path of a job in a state, for messages and for programs that are given it.
    pub(crate) fn job_path(&self, state: JobState, id: &JobId) -> PathBuf {
        self.path(state).join(id.as_str())
    }

    /// Opens a job's directory in a state; `None` if it is not there.
    pub(crate) fn open_job(&self, state: JobState, id: &JobId) -> Result<Option<OwnedFd>> {
        match rustix::fs::openat(self.dir(state), id.as_str(), DIRECTORY, Mode::empty()) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT) => Ok(None),
            // For a link to a directory, Linux says NOTDIR and other systems say LOOP.
            Err(Errno::NOTDIR | Errno::LOOP) => Err(WorkspaceError::NotAJob {
                path: self.job_path(state, id),
                what: kind(self.dir(state), id.as_str()).map_or("something else", name_of),
            }),
            Err(error) => Err(WorkspaceError::io("open", self.job_path(state, id), error)),
        }
    }

    /// Whether a state's directory has an entry with this job's name, of any type.
    pub(crate) fn holds(&self, state: JobState, id: &JobId) -> bool {
        kind(self.dir(state), id.as_str()).is_some()
    }
}

/// The type of the entry `name` in a directory, without following links.
pub(crate) fn kind(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Option<FileType> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

/// What messages call a file type that is not the expected one.
pub(crate) fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    }
}

/// Opens a directory inside another, never through a link.
pub(crate) fn open_dir(
    dir: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| WorkspaceError::io("find", path, error))
}

/// Keeps a file from being freed when its name goes. Opens it without access to its content.
#[cfg(target_os = "linux")]
pub(crate) fn hold(dir: BorrowedFd<'_>, name: &str) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).ok()
}

/// Other systems gain nothing from it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn hold(_dir: BorrowedFd<'_>, _name: &str) -> Option<OwnedFd> {
    None
}

// The workspace itself may be a link: people move it to a larger disk.
pub(crate) fn open_root(root: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, root, DIRECTORY - OFlags::NOFOLLOW, Mode::empty())
        .map_err(|error| WorkspaceError::io("open", root, error))
}

// A state's directory may not: a link could lead to another file system or another workspace.
fn open_state(dir: BorrowedFd<'_>, name: &str, path: &Path) -> Result<OwnedFd> {
    open_dir(dir, name).map_err(|error| match error {
        Errno::NOTDIR | Errno::LOOP => {
            let what = kind(dir, name).map_or("something else", name_of);
            let reason = std::io::Error::other(format!("it is {what}, not a directory"));
            WorkspaceError::io("use", path, reason)
        }
        error => WorkspaceError::io("open", path, error),
    })
}

/// Syncs the directories that lead to a new workspace: it must survive whatever its jobs survive.
fn sync_path_to(root: &Path, top: &OwnedFd, fs: &dyn FileSystem) -> Result<()> {
    let sync = |dir: BorrowedFd<'_>, path: &Path| {
        fs.sync(dir).map_err(|error| WorkspaceError::io("sync", path, error))
    };
    let input = root.join("input");
    sync(open_state(top.as_fd(), "input", &input)?.as_fd(), &input)?;
    sync(top.as_fd(), root)?;
    match root.parent() {
        Some(parent) => sync(open_root(parent)?.as_fd(), parent),
        None => Ok(()),
    }
}
