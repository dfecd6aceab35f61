//! The options of `batch`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use threadrunner_core::protocol::Submission;
use threadrunner_core::{BackendKind, Failure, Priority, WorkspaceName};

use super::sampling::SamplingArgs;
use super::values;

/// The end of `batch --help`.
pub(super) const HELP: &str = "\
Each line of FILE is a JSON object: a \"prompt\" or \"messages\", an \"id\", and any option of the
protocol (model, system, max_tokens, temperature, ...), which overrides the command line's. A line
without an \"id\" is identified by its number. Lines in OpenAI's batch format (custom_id, url, body)
work too, and are answered in that format. Numbers may be written as 3.0; null counts as absent.

  {\"id\": \"sky\", \"prompt\": \"Why is the sky blue?\", \"max_tokens\": 100}

Each line gets one line in OUT, written when its job ends, in any order: id, text, job, model,
finish_reason, usage and timings, or id and error. A line without an \"id\" also gets its number, as
\"line\". A line that is malformed, or repeats an earlier id, is reported on standard error and as an
error in OUT, with a null id if none can be read. The other lines continue, and the exit code is 6.

A batch may be stopped at any moment, by Ctrl-C, a kill or a power failure: run the same command
again to resume. It reads OUT, picks up the jobs that the last run left, and does what is missing.
To start over, remove OUT.

Examples:
  threadrunner batch prompts.jsonl -o answers.jsonl
  threadrunner batch prompts.jsonl -o answers.jsonl --retry-failed
  jq -c '{id, prompt: .question}' data.jsonl | threadrunner batch - | jq -r .text
  threadrunner batch openai.jsonl -o answers.jsonl -m SmolLM2-135M-Instruct.Q4_1
  threadrunner jobs --tag nightly        # of: threadrunner batch --tag nightly ...";

/// The arguments of `batch`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BatchArgs {
    /// The prompts, one JSON object per line; - is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Write answers to this file, and skip lines that it answers; - is standard output
    #[arg(short, long, value_name = "OUT", default_value = "-")]
    pub(crate) output: PathBuf,

    /// Retry the lines that have an error in OUT
    #[arg(long)]
    pub(crate) retry_failed: bool,

    /// Keep at most N jobs queued or running [default: as many as keep the engine busy]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::concurrency)]
    pub(crate) concurrency: Option<usize>,

    /// Use this model for lines that name none, and for all lines in OpenAI's format
    #[arg(short, long, value_name = "NAME")]
    pub(crate) model: Option<String>,

    /// Use this draft model for lines that name neither one nor a model; `none` disables it
    #[arg(long, value_name = "NAME")]
    pub(crate) draft: Option<String>,

    /// Give these instructions to the model for lines that have none
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) system: Option<String>,

    /// Use this backend [default: THREADRUNNER_BACKEND, else config.toml, else as built]
    #[arg(long, value_name = "NAME", value_parser = values::backend())]
    pub(crate) backend: Option<BackendKind>,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// Keep the jobs in this workspace: a name, or a directory [default: default]
    #[arg(short, long, value_name = "NAME", help_heading = "Jobs", value_parser = values::workspace)]
    pub(crate) workspace: Option<WorkspaceName>,

    /// Tag the jobs with this word, to find them by (repeatable)
    #[arg(long = "tag", value_name = "WORD", help_heading = "Jobs")]
    pub(crate) tags: Vec<String>,

    /// Set the priority of the jobs [default: batch]
    #[arg(long, value_name = "NAME", help_heading = "Jobs", value_parser = values::priority())]
    pub(crate) priority: Option<Priority>,

    /// Give up on a line after this long, including its time in the queue: 30s, 5m
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, help_heading = "Jobs", value_parser = values::limit)]
    pub(crate) timeout: Option<Duration>,
}

impl BatchArgs {
    /// What lines leave out.
    pub(crate) fn into_defaults(self) -> Result<Submission, Failure> {
        Ok(Submission {
            model: self.model,
            draft: self.draft,
            system: self.system,
            backend: self.backend,
            params: self.sampling.into_checked_parameters()?,
            workspace: self.workspace,
            tags: self.tags,
            priority: self.priority,
            timeout_s: self.timeout.map(|timeout| timeout.as_secs_f64()),
            ..Submission::default()
        })
    }
}
