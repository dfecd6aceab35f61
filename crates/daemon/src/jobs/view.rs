//! What readers see of a live job: its owner keeps one copy, and each reader follows at its own
//! pace.
//!
//! A reader holds a [`Reader`](tokio::sync::watch::Receiver) and an offset into the text. A slow
//! reader gets more text at a time and never makes anyone wait, so there is no queue to bound.

use threadrunner_core::{Failure, FinishReason, JobId, Output, Timings, Usage};
use tokio::sync::watch;

/// A live job as its readers see it.
#[derive(Debug, Clone)]
pub(crate) struct JobView {
    /// The job.
    pub(crate) id: JobId,
    /// Whether the job would survive a crash. Its id is not told before that.
    pub(crate) durable: bool,
    /// What the job is doing.
    pub(crate) phase: Phase,
    /// How many times the text was started over. On a change, a reader restarts at offset 0.
    pub(crate) attempt: u32,
    /// The text of the answer so far.
    pub(crate) text: String,
    /// What the answer so far holds beside its text.
    pub(crate) output: Vec<Output>,
    /// The text of the previous attempt. The current one may generate the same again.
    pub(crate) earlier: String,
    /// How the job ended. Set last, and only once.
    pub(crate) end: Option<End>,
}

/// What a live job is doing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    /// Waiting for other jobs to end: one of them, and how many more.
    Held { on: JobId, others: u32 },
    /// Waiting for its turn.
    Queued { position: u32 },
    /// Its model is being loaded.
    Loading { model: String, fraction: f32 },
    /// Its prompt is being prefilled: `done` of `total` tokens.
    Prefill { done: u32, total: u32 },
    /// Its answer is being generated.
    Decode,
}

/// How a job ended.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// With an answer.
    Done(Box<Done>),
    /// Without an answer, or with only part of one.
    Failed(Failure),
}

/// What the last frame of an answer carries.
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
    /// A view of a job that is queued at `position`.
    pub(crate) fn queued(id: JobId, position: u32, durable: bool) -> Self {
        Self {
            id,
            durable,
            phase: Phase::Queued { position },
            attempt: 0,
            text: String::new(),
            output: Vec::new(),
            earlier: String::new(),
            end: None,
        }
    }
}
