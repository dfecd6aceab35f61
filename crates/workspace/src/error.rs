//! [`WorkspaceError`], and what a client is told of it.

use std::io;
use std::path::{Path, PathBuf};

use threadrunner_core::{ErrorCode, Failure, JobId, JobSelector, JobState};

/// Why a workspace operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkspaceError {
    /// A system call failed.
    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb: `create`, `rename`, …
        verb: &'static str,
        /// The path that it was attempted on.
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
    /// No job has this id, or matches what was given for one.
    #[error("no job '{job}' in the workspace {}", workspace.display())]
    NotFound {
        /// What was asked for.
        job: JobSelector,
        /// The workspace.
        workspace: PathBuf,
    },
    /// More than one job matches what was given.
    #[error("'{text}' could be {first} or {second}{}", if *others > 0 { " or others" } else { "" })]
    Ambiguous {
        /// What was asked for.
        text: JobSelector,
        /// A job that matches.
        first: JobId,
        /// Another one.
        second: JobId,
        /// How many more match.
        others: usize,
    },
    /// What was given can be neither an id nor a part of one.
    #[error("'{text}' is not a job id, nor a prefix or suffix of one, nor 'last'")]
    NotAnId {
        /// What was given.
        text: String,
    },
    /// A job with this id already exists.
    #[error("job {id} already exists in {}", state.directory())]
    Exists {
        /// The id.
        id: JobId,
        /// The state of the existing job.
        state: JobState,
    },
    /// The job's state does not allow the operation.
    #[error("job {id} is {state}, so it cannot be {wanted}")]
    WrongState {
        /// The job.
        id: JobId,
        /// Its state.
        state: JobState,
        /// What was attempted: `claimed`, `canceled`, …
        wanted: &'static str,
    },
    /// The job is malformed. The next sync moves it to `failed` with this reason.
    #[error("job {id} is malformed: {failure}")]
    Rejected {
        /// The job.
        id: JobId,
        /// What is wrong with it.
        failure: Failure,
    },
    /// An entry in a state's directory has a job's name but is not a directory. It is left alone.
    #[error("{} is {what}, not a job's directory; it is left alone", path.display())]
    NotAJob {
        /// Its path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A directory in `input/ready` without a prompt, created a moment ago. A program that fills it
    /// there, instead of renaming it into place, gets a second to do so.
    #[error("{} has no prompt.txt yet", path.display())]
    Unfinished {
        /// Its path.
        path: PathBuf,
    },
    /// The job is done, but its answer is not text.
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
        /// What is wrong with the file in place of the text, if there is one.
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
    /// This program cannot use a session's file.
    #[error("the session's file {} cannot be used: {reason}", path.display())]
    UnfitSession {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A value cannot be serialized as JSON.
    #[error("cannot write {what} as JSON: {source}")]
    Json {
        /// The file that it is for.
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

    /// Copies an error, for each job of a group that failed with it.
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

    /// Whether the disk or the user's quota is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ))
    }

    /// Whether a resource has run out or the disk is read-only, so that a later attempt may
    /// succeed.
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
                // As when a connection finds no descriptor: it passes when others are closed.
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
                .hint("another program may have left its answer there in other files"),
            Self::TooLarge { .. } => Failure::new(ErrorCode::InvalidRequest, message)
                .hint("split the text over several jobs"),
            Self::UnfitSession { .. } => Failure::new(ErrorCode::Config, message)
                .hint("a newer ThreadRunner may be able to read it; otherwise move it away"),
            Self::Json { .. } => Failure::new(ErrorCode::Internal, message),
        }
    }
}

/// Whether the process or the system has no file descriptor left.
fn lacks_descriptors(source: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(source);
    matches!(errno, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

fn io_hint(source: &io::Error, path: &Path) -> Option<String> {
    let hint = match source.kind() {
        io::ErrorKind::StorageFull => {
            // The file that could not be written has been removed again.
            let there = path.ancestors().find(|it| it.exists()).unwrap_or(path);
            format!(
                "the disk is full: make room, for instance with `threadrunner prune` (df -h {0}; \
                 and df -i {0} for inodes)",
                there.display()
            )
        }
        io::ErrorKind::QuotaExceeded => "your disk quota is used up: make room".to_owned(),
        io::ErrorKind::FileTooLarge => {
            "file size limit exceeded: raise `ulimit -f` where the daemon is started".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            format!("make {} readable and writable for your user", path.display())
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "the file system is mounted read-only: set THREADRUNNER_HOME to a writable \
             directory"
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

/// The result of a workspace operation.
pub type Result<T, E = WorkspaceError> = std::result::Result<T, E>;
