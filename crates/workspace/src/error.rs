//! How the workspace fails.

use std::io;
use std::path::{Path, PathBuf};

use threadrunner_core::{ErrorCode, Failure, JobId, JobState};

/// Why an operation on the workspace was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkspaceError {
    /// A system call failed.
    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: `create`, `rename`, …
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process owns the workspace.
    #[error("the workspace {} belongs to another daemon that is running", path.display())]
    Locked {
        /// The workspace.
        path: PathBuf,
    },
    /// No job goes by this id, or by what was given for one.
    #[error("no job '{job}' in the workspace {}", workspace.display())]
    NotFound {
        /// What was asked for.
        job: String,
        /// Where.
        workspace: PathBuf,
    },
    /// More than one job goes by what was given.
    #[error("'{text}' could be {first} or {second}{}", if *others > 0 { " or others" } else { "" })]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// One job it fits.
        first: JobId,
        /// Another.
        second: JobId,
        /// How many more.
        others: usize,
    },
    /// What was given can be no id, nor a part of one.
    #[error("'{text}' is not a job id, nor a prefix or suffix of one, nor 'last'")]
    NotAnId {
        /// What was given.
        text: String,
    },
    /// A job with this id is there already.
    #[error("there is a job {id} already, in {}", state.directory())]
    Exists {
        /// The id.
        id: JobId,
        /// Where its namesake stands.
        state: JobState,
    },
    /// The job's state does not allow it.
    #[error("job {id} is {state}, so it cannot be {wanted}")]
    WrongState {
        /// The job.
        id: JobId,
        /// Where it stands.
        state: JobState,
        /// What was to be done to it: `claimed`, `canceled`, …
        wanted: &'static str,
    },
    /// The job is malformed; it moves to `failed` with this reason at the next sync.
    #[error("job {id} is malformed: {failure}")]
    Rejected {
        /// The job.
        id: JobId,
        /// What is wrong with it.
        failure: Failure,
    },
    /// Something in a state's directory goes by a job's name and is none: it is left alone.
    #[error("{} is {what}, not a job's directory; it is left alone", path.display())]
    NotAJob {
        /// Where.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A directory in `input/ready` without a prompt, made a moment ago: whoever fills it there,
    /// instead of renaming it there, is given a second.
    #[error("{} has no prompt.txt yet", path.display())]
    Unfinished {
        /// Where.
        path: PathBuf,
    },
    /// A job is done, and its answer is no text.
    #[error(
        "job {id} is done, but {} in {}",
        why.as_deref().unwrap_or("there is no text"),
        path.display()
    )]
    NoText {
        /// The job.
        id: JobId,
        /// Its directory.
        path: PathBuf,
        /// What is in the text's place.
        why: Option<String>,
    },
    /// The prompt, the job description or the answer is over the limit.
    #[error("{what} of {bytes} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
    /// A session's file is not what this program could have written.
    #[error("the session's file {} cannot be used: {reason}", path.display())]
    UnfitSession {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A value cannot be written as JSON.
    #[error("cannot write {what} as JSON: {source}")]
    Json {
        /// Which file.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

impl WorkspaceError {
    pub(crate) fn io(
        verb: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io { verb, path: path.into(), source: source.into() }
    }

    /// The same error once more, for each job of a group that it ended.
    pub(crate) fn duplicate(&self) -> Self {
        match self {
            Self::Io { verb, path, source } => {
                let source = match source.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(source.kind(), source.to_string()),
                };
                Self::io(verb, path, source)
            }
            other => Self::io("sync", PathBuf::new(), io::Error::other(other.to_string())),
        }
    }

    /// Whether the disk, or the user's share of it, is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ))
    }

    /// Whether something has run out, or the disk may not be written now: what is tried again
    /// later may go well.
    pub fn is_shortage(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        let kind =
            matches!(source.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::OutOfMemory);
        kind || lacks_descriptors(source) || self.is_disk_full()
    }

    /// What a client is told.
    pub fn into_failure(self) -> Failure {
        let message = self.to_string();
        match self {
            Self::Io { source, path, .. } => {
                // As when the connection itself finds no descriptor: it passes when others end.
                let code = match lacks_descriptors(&source) {
                    true => ErrorCode::Overloaded,
                    false => ErrorCode::Io,
                };
                let failure = Failure::new(code, message);
                match io_hint(&source, &path) {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                }
            }
            Self::Locked { .. } => Failure::new(ErrorCode::Config, message).hint(
                "stop it with `threadrunner daemon stop`, or give this one another \
                 THREADRUNNER_WORKSPACE",
            ),
            Self::NotFound { .. } => Failure::new(ErrorCode::JobNotFound, message)
                .hint("see `threadrunner jobs` for what there is"),
            Self::Ambiguous { .. } => {
                Failure::new(ErrorCode::AmbiguousId, message).hint("give more of the id")
            }
            Self::NotAnId { .. } => Failure::new(ErrorCode::JobNotFound, message)
                .hint("ids are digits and single underscores, at most 128 characters"),
            Self::Exists { .. } => Failure::new(ErrorCode::JobExists, message),
            Self::WrongState { .. } => Failure::new(ErrorCode::WrongState, message),
            Self::Rejected { failure, .. } => failure,
            Self::NotAJob { .. } | Self::Unfinished { .. } => {
                Failure::new(ErrorCode::InvalidRequest, message)
            }
            Self::NoText { .. } => Failure::new(ErrorCode::NoText, message)
                .hint("another program may have answered with other files: look there"),
            Self::TooLarge { .. } => Failure::new(ErrorCode::InvalidRequest, message)
                .hint("split the text over several jobs"),
            Self::UnfitSession { .. } => Failure::new(ErrorCode::Config, message)
                .hint("a newer ThreadRunner may know it; else move it away"),
            Self::Json { .. } => Failure::new(ErrorCode::Internal, message),
        }
    }
}

/// Whether the process or the machine has no file descriptor left.
fn lacks_descriptors(source: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(source);
    matches!(errno, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

fn io_hint(source: &io::Error, path: &Path) -> Option<String> {
    let hint = match source.kind() {
        io::ErrorKind::StorageFull => {
            // What could not be written was removed again.
            let there = path.ancestors().find(|it| it.exists()).unwrap_or(path);
            format!(
                "the disk is full: make room, for instance with `threadrunner prune` (df -h {0}; \
                 and df -i {0} for inodes)",
                there.display()
            )
        }
        io::ErrorKind::QuotaExceeded => "your disk quota is used up: make room".to_owned(),
        io::ErrorKind::FileTooLarge => {
            "a file may not be so long: raise `ulimit -f` where the daemon is started".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            format!("make {} readable and writable for your user", path.display())
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "the file system is mounted read-only: set THREADRUNNER_HOME to a place that can be \
             written"
                .to_owned()
        }
        io::ErrorKind::CrossesDevices => {
            "the workspace's directories must be on one file system, because a move is one rename"
                .to_owned()
        }
        _ if lacks_descriptors(source) => {
            "too many files are open: try again later, or raise `ulimit -n` where the daemon is \
             started"
                .to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

impl From<WorkspaceError> for Failure {
    fn from(error: WorkspaceError) -> Self {
        error.into_failure()
    }
}

/// What operations on the workspace return.
pub type Result<T, E = WorkspaceError> = std::result::Result<T, E>;
