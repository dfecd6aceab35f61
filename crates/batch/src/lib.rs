//! Batches: many prompts from a file, answered line by line into another. A batch can be stopped,
//! killed and resumed at any moment.
//!
//! A [`Batch`] carries out a [`Plan`]: it takes lines from an [`Input`], completes each with the
//! plan's defaults, keeps as many jobs under way as its `Window` allows, and writes each answer to
//! an [`Output`], in ThreadRunner's own format or in OpenAI's ([`openai`]), as the line was.
//! [`Batch::next`] works until there is a [`BatchEvent`] to tell, and [`Counts`] says how far the
//! batch is.
//!
//! Each line has exactly one line in the output, whatever is killed when:
//!
//! - The output says what is done. It is read at the start (`Seen`), and a line that was cut short
//!   is dropped.
//! - Jobs are detached, and the `Ledger` names those under way, so that the next run follows them
//!   instead of submitting them again.
//! - The batch chooses the ids of its jobs and records them before it submits. If the daemon or the
//!   batch dies in between, the same job is submitted again, and an id names only one job.
//!
//! The crate owns the reading of lines, their ids, the ledger, the window, the jobs, the output and
//! the counts. It must never know who asks: no arguments, no terminal, no signals, no exit codes,
//! no words of advice. A front (the command line, a gateway) opens input and output, waits for
//! [`Batch::next`] beside whatever may interrupt it, draws the counts, and puts a [`BatchError`]
//! into its own words. Models are chosen by `threadrunner_home`, frames and connections are the
//! business of `threadrunner_client`.
//!
//! Unit tests are in each module. Golden files in `tests/golden` hold requests as OpenAI's clients
//! send them (`requests.jsonl`), what each asks for (`submissions.jsonl`), and results in both
//! formats (`results.jsonl`, `own_results.jsonl`). Batches with a daemon, killed and resumed, are
//! in `tests/tests/batch.rs` at the project's root.

mod answer;
mod batch;
mod counts;
mod defaults;
mod error;
mod fingerprint;
mod input;
mod job;
mod known_keys;
mod label;
mod ledger;
mod line;
pub mod openai;
mod out;
mod output;
mod plan;
mod seen;
mod stop;
mod window;

pub use batch::Batch;
pub use counts::{Counts, Rate};
pub use error::BatchError;
pub use input::Input;
pub use label::Asked;
pub use out::Before;
pub use output::Output;
pub use plan::{BatchEvent, Plan};
pub use stop::Stopped;
pub use window::MOST_JOBS;
