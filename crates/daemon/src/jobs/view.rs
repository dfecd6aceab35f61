//! What can be seen of a live job: kept once by its owner, read at each reader's own pace.
//!
//! A reader holds a [`Reader`](tokio::sync::watch::Receiver) and an offset into the text. One that
//! is slow gets more text at once and never makes anybody wait, so there is no queue to bound.

use threadrunner_core::{Failure, FinishReason, JobId, Timings, Usage};
use tokio::sync::watch;

/// A live job as its readers see it.
#[derive(Debug, Clone)]
pub(crate) struct JobView {
    /// The job.
    pub(crate) id: JobId,
    /// Whether the job would survive a crash; only then is its id told.
    pub(crate) durable: bool,
    /// What is happening.
    pub(crate) phase: Phase,
    /// How often the text was begun anew. A reader that sees it change starts at offset 0.
    pub(crate) attempt: u32,
    /// The answer so far.
    pub(crate) text: String,
    /// What the attempt before this one had said. The same may be said again.
    pub(crate) earlier: String,
    /// How it ended. Set last, once.
    pub(crate) end: Option<End>,
}

/// What is happening to a live job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    /// Waiting for the end of other jobs: one of them, and how many more.
    Held { on: JobId, others: u32 },
    /// Waiting for its turn.
    Queued { position: u32 },
    /// Its model is being loaded.
    Loading { model: String, fraction: f32 },
    /// Its prompt is being read.
    Prefill { done: u32, total: u32 },
    /// Its answer is being generated.
    Decode,
}

/// How a job ended.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// With an answer.
    Done(Box<Done>),
    /// Without one, or with a part.
    Failed(Failure),
}

/// What the last frame of an answer tells.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) model: String,
    pub(crate) finish_reason: FinishReason,
    pub(crate) usage: Usage,
    pub(crate) timings: Timings,
}

/// The owner's end.
pub(crate) type ViewSender = watch::Sender<JobView>;
/// A reader's end.
pub(crate) type ViewReader = watch::Receiver<JobView>;

impl JobView {
    /// A view of a job that waits at `position`.
    pub(crate) fn queued(id: JobId, position: u32, durable: bool) -> Self {
        Self {
            id,
            durable,
            phase: Phase::Queued { position },
            attempt: 0,
            text: String::new(),
            earlier: String::new(),
            end: None,
        }
    }
}
