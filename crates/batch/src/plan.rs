//! What a batch is told, and what it tells.

use threadrunner_core::Failure;
use threadrunner_core::protocol::Submission;

use crate::input::Input;
use crate::output::Output;

/// What a batch is to do.
#[derive(Debug)]
pub struct Plan {
    /// The lines to answer.
    pub input: Input,
    /// Where the answers go.
    pub output: Output,
    /// What lines leave out: the model, draft model, system message, backend, parameters, priority
    /// and time limit. Its tags are added to a line's own, and its workspace is that of all jobs.
    /// The rest is not used.
    pub defaults: Submission,
    /// How many jobs to keep queued or running, up to [`MOST_JOBS`](crate::MOST_JOBS); `None` is as
    /// many as keep the engines busy.
    pub at_once: Option<usize>,
    /// How many lines there are, if the caller counted them; for
    /// [`Counts::total`](crate::Counts::total).
    pub total: Option<u64>,
}

/// What happens in a batch.
#[derive(Debug, PartialEq)]
pub enum BatchEvent {
    /// A line failed. The others continue.
    Failed {
        /// Its number.
        line: u64,
        /// Why.
        failure: Failure,
    },
    /// A key of a line has no effect. Each key is told once.
    NoEffect {
        /// The number of the line.
        line: u64,
        /// The key.
        key: String,
    },
    /// A line of the output, with its newline, for the caller to write before it asks for the next
    /// event. Only from [`Output::events`].
    Line(Vec<u8>),
    /// One more line is in the output, and counted.
    Counted,
}
