//! What the thread of a workspace is given to write, and what it reports.

use threadrunner_core::{CacheName, Failure, JobId, JobMeta, JobSpec, ModelRef, Priority};
use threadrunner_workspace::Hook;

use super::standing::{After, Standing};

/// A job to write.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) id: JobId,
    /// Whether its client chose the id. Then a job with that id may exist.
    pub(crate) is_chosen: bool,
    pub(crate) prompt: String,
    pub(crate) spec: JobSpec,
    pub(crate) meta: JobMeta,
    /// Whether to claim it at once instead of queueing it.
    pub(crate) claim: bool,
}

/// A claimed job.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) prompt: String,
    pub(crate) spec: JobSpec,
    pub(crate) meta: JobMeta,
    /// The engine's name for the cached state of its session.
    pub(crate) state: Option<CacheName>,
    /// Why it cannot run as it is.
    pub(crate) unfit: Option<Failure>,
}

/// The state in which a submitted job was written.
#[derive(Debug)]
pub(crate) enum Written {
    /// In `processing`, with its claim.
    Claimed(Box<Claim>),
    /// In `ready`, with the jobs it waits for.
    Ready(After),
}

/// A job found in `ready`, put there by another program, by an earlier daemon or by a retry.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) model: Option<ModelRef>,
    pub(crate) priority: Priority,
    /// Its first tag.
    pub(crate) tag: Option<Box<str>>,
    /// Seconds until its deadline. May be any number, because another program may have written it.
    pub(crate) time_left_s: Option<f64>,
    pub(crate) after: After,
}

/// The outcome of an operation, or news of the workspace.
#[derive(Debug)]
pub(crate) enum StoreEvent {
    /// The job is written, or refused.
    Submitted { id: JobId, result: Result<Written, Failure> },
    /// The job would survive a crash.
    Durable { id: JobId },
    /// The job is in `processing`.
    Claimed { id: JobId, result: Result<Box<Claim>, Failure> },
    /// The job is still in `ready`: the disk is full, say, or there are too many open files.
    NotNow { id: JobId, failure: Failure },
    /// The job is back in `ready`.
    Released { id: JobId, result: Result<(), Failure> },
    /// The job is in `output` or `failed` for good.
    Ended { id: JobId, result: Result<(), Failure> },
    /// The job was started before it was on disk, and then could not be written.
    Lost { id: JobId, failure: Failure },
    /// A job with a hook has ended.
    HookDue { id: JobId },
    /// The hook can run; `None` if there is no longer one to run.
    HookReady { id: JobId, result: Result<Option<Hook>, Failure> },
    /// The outcome of a hook is recorded, as far as possible.
    HookNoted,
    /// A job in `ready` was malformed and is now in `failed`.
    Refused { id: JobId },
    /// The answer to [`super::Store::ask_standing`].
    Stands { id: JobId, how: Standing },
    /// The ids of all jobs in `ready`.
    Listed { ids: Vec<JobId> },
    /// A job in `ready` that the owner may not know.
    Found { id: JobId, found: Found },
}

impl StoreEvent {
    /// The job whose state the event reports, if any.
    pub(crate) fn job(&self) -> Option<&JobId> {
        match self {
            Self::Submitted { id, .. }
            | Self::Durable { id }
            | Self::Claimed { id, .. }
            | Self::NotNow { id, .. }
            | Self::Released { id, .. }
            | Self::Ended { id, .. }
            | Self::Lost { id, .. }
            | Self::Refused { id }
            | Self::Stands { id, .. }
            | Self::Found { id, .. } => Some(id),
            Self::HookDue { .. }
            | Self::HookReady { .. }
            | Self::HookNoted
            | Self::Listed { .. } => None,
        }
    }
}
