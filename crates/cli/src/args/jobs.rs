//! The arguments of the commands about jobs.

use std::time::Duration;

use clap::Args;
use threadrunner_core::JobStatus;

use super::{WorkspaceArg, values};

/// The end of `jobs --help`.
pub(super) const LIST: &str = "\
Examples:
  threadrunner jobs --state running --state queued
  threadrunner jobs --tag nightly --since 1d
  threadrunner jobs --watch
  threadrunner jobs --json --limit 1000 | jq -r '.jobs[] | select(.duration_s > 60) | .job'
  threadrunner jobs --state failed --state canceled --ids | threadrunner retry -
  threadrunner jobs --older-than 7d --state done --ids | threadrunner rm -";

/// The end of `wait --help`.
pub(super) const WAIT: &str = "\
Prints each id when its job ends, at once if it has ended already. The exit code is 6 if any job
failed or was canceled, and 4 if the time given by --timeout is over.

Examples:
  id=$(threadrunner --detach \"A long story\") && threadrunner wait $id && threadrunner result $id
  for f in *.txt; do threadrunner --detach \"Summarize\" < $f; done | threadrunner wait -
  threadrunner wait --all --timeout 1h
  threadrunner wait --tag nightly | while read -r id; do threadrunner result $id; done
  threadrunner wait --tag nightly && echo all done
  threadrunner wait --idle && shutdown now";

/// The end of `retry --help`.
pub(super) const RETRY: &str = "\
Examples:
  threadrunner retry last
  threadrunner jobs --state failed --since 1d --ids | threadrunner retry - | threadrunner wait -";

/// Which jobs to list.
#[derive(Debug, Clone, Args)]
pub(crate) struct JobsArgs {
    /// List only jobs in this state (repeatable, or several with commas)
    #[arg(
        long = "state",
        value_name = "STATE",
        value_parser = values::state(),
        value_delimiter = ',',
        ignore_case = true
    )]
    pub(crate) states: Vec<JobStatus>,
    /// List only jobs with this tag
    #[arg(long, value_name = "WORD")]
    pub(crate) tag: Option<String>,
    /// List only jobs of this model
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// List only jobs submitted within this time: 30m, 2h, 7d
    #[arg(long, alias = "newer-than", value_name = "DURATION", allow_negative_numbers = true, value_parser = values::duration)]
    pub(crate) since: Option<Duration>,
    /// List only jobs submitted longer ago than this: 30m, 2h, 7d
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, value_parser = values::duration)]
    pub(crate) older_than: Option<Duration>,
    /// List at most N jobs [default: 50, or all with --ids]
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) limit: Option<u32>,
    /// Print only ids, for other commands
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    pub(crate) ids: bool,
    /// Keep watching: redraw the list on a terminal (q quits), else print a line for each change
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print JSON; with --watch, one object per change
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which jobs to wait for.
#[derive(Debug, Clone, Args)]
pub(crate) struct WaitArgs {
    /// Ids, unambiguous beginnings or ends of ids, or `last`; without any, or with `-`, ids are
    /// read from standard input
    #[arg(value_name = "ID", conflicts_with_all = ["all", "tag", "idle"])]
    pub(crate) ids: Vec<String>,
    /// Wait for all jobs that are queued or running now
    #[arg(long, conflicts_with_all = ["tag", "idle"])]
    pub(crate) all: bool,
    /// Wait for all jobs with this tag, including those that have ended
    #[arg(long, value_name = "WORD", conflicts_with = "idle")]
    pub(crate) tag: Option<String>,
    /// Wait until nothing is queued or running, including later submissions; prints nothing
    #[arg(long, conflicts_with = "workspace")]
    pub(crate) idle: bool,
    /// Wait only for the first job to end; with --all or --tag, exit code 7 if all have ended
    #[arg(long, conflicts_with = "idle")]
    pub(crate) any: bool,
    /// Stop waiting after this long; the jobs keep running
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, value_parser = values::limit)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print JSON, one object per job
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which jobs to follow.
#[derive(Debug, Clone, Args)]
pub(crate) struct FollowArgs {
    /// Ids, unambiguous beginnings or ends of ids, or `last`; without any, or with `-`, ids are
    /// read from standard input. Several jobs are followed one after the other
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Stop waiting after this long; the jobs keep running
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, value_parser = values::limit)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print one JSON object when a job ends
    #[arg(long)]
    pub(crate) json: bool,
    /// Report timings at the end: time to the first token, tokens per second
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Show the answer as it is, without formatting its Markdown on a terminal
    #[arg(long)]
    pub(crate) plain: bool,
}

/// Which jobs' answers to print.
#[derive(Debug, Clone, Args)]
pub(crate) struct ResultArgs {
    #[command(flatten)]
    pub(crate) of: JobArgs,
    /// Show the answer as it is, without formatting its Markdown on a terminal
    #[arg(long)]
    pub(crate) plain: bool,
}

/// Which jobs a command is about.
#[derive(Debug, Clone, Args)]
pub(crate) struct JobArgs {
    /// Ids, unambiguous beginnings or ends of ids, or `last`; without any, or with `-`, ids are
    /// read from standard input
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print JSON, one object per job
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which jobs to remove.
#[derive(Debug, Clone, Args)]
pub(crate) struct PruneArgs {
    /// Remove jobs that ended longer ago than this: 30m, 2h, 7d
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, value_parser = values::duration)]
    pub(crate) older_than: Duration,
    /// Keep failed and canceled jobs
    #[arg(long)]
    pub(crate) keep_failed: bool,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
