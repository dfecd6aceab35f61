//! The options of `batch`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use threadrunner_core::{BackendKind, Priority};

use super::options::SamplingArgs;
use super::values;

/// What `batch --help` says at its end.
pub(super) const HELP: &str = "\
Each line of FILE is a JSON object: an \"id\", a \"prompt\" or \"messages\", and any option of the
protocol (model, system, max_tokens, temperature, ...), which beats the command line's. Without an
\"id\" a line is known by its number. Lines of OpenAI's batch format (custom_id, url, body) are
understood too, and answered in that format. Numbers may be written 3.0, and null is nothing.

  {\"id\": \"sky\", \"prompt\": \"Why is the sky blue?\", \"max_tokens\": 100}

Each line has one line in OUT, written when its job ends, in any order: id, text, job, model,
finish_reason, usage and timings, or id and error. A line without an id of its own has \"line\" there
too, its number. A line that is wrong, or has the id of an earlier one, is told on standard error and
has an error in OUT, with the id null where it cannot be read; the others go on. Then the exit code
is 6.

Stopped at any moment, by Ctrl-C, a kill or a power failure, the same command goes on: it reads OUT,
takes up the jobs that the last run left, and does what is missing. To do everything anew, remove OUT.

Examples:
  threadrunner batch prompts.jsonl -o answers.jsonl
  threadrunner batch prompts.jsonl -o answers.jsonl --retry-failed
  jq -c '{id, prompt: .question}' data.jsonl | threadrunner batch - | jq -r .text
  threadrunner batch openai.jsonl -o answers.jsonl -m SmolLM2-135M-Instruct.Q4_1
  threadrunner jobs --tag nightly        # of: threadrunner batch --tag nightly ...";

/// Many prompts.
#[derive(Debug, Clone, Args)]
pub(crate) struct BatchArgs {
    /// The prompts, one JSON object a line; - is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Where answers go; what is there already is not done again; - is standard output
    #[arg(short, long, value_name = "OUT", default_value = "-")]
    pub(crate) output: PathBuf,

    /// Try those lines again that have an error in OUT
    #[arg(long)]
    pub(crate) retry_failed: bool,

    /// The most jobs queued or running at once [default: as many as keep the engine busy]
    #[arg(long, value_name = "N", value_parser = values::concurrency)]
    pub(crate) concurrency: Option<usize>,

    /// The model of lines that name none, and of all in OpenAI's format
    #[arg(short, long, value_name = "NAME")]
    pub(crate) model: Option<String>,

    /// The draft model of lines that name neither it nor a model; `none` is none
    #[arg(long, value_name = "NAME")]
    pub(crate) draft: Option<String>,

    /// Instructions for lines that have none
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) system: Option<String>,

    /// The backend [default: THREADRUNNER_BACKEND, else config.toml, else as built]
    #[arg(long, value_name = "NAME", value_parser = values::backend())]
    pub(crate) backend: Option<BackendKind>,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// The workspace to keep the jobs in: a name, or a directory [default: default]
    #[arg(short, long, value_name = "NAME", help_heading = "Jobs", value_parser = values::workspace)]
    pub(crate) workspace: Option<String>,

    /// A word to find the jobs by (repeatable)
    #[arg(long = "tag", value_name = "WORD", help_heading = "Jobs")]
    pub(crate) tags: Vec<String>,

    /// Who goes first [default: batch]
    #[arg(long, value_name = "NAME", help_heading = "Jobs", value_parser = values::priority())]
    pub(crate) priority: Option<Priority>,

    /// Give a line up after this long, queueing included: 30s, 5m
    #[arg(long, value_name = "DURATION", help_heading = "Jobs", value_parser = values::limit)]
    pub(crate) timeout: Option<Duration>,
}
