//! The options of what is done with jobs.

use std::time::Duration;

use clap::Args;
use threadrunner_core::JobStatus;

use super::{WorkspaceArg, values};

/// What `jobs --help` says at its end.
pub(super) const LIST: &str = "\
Examples:
  threadrunner jobs --state running --state queued
  threadrunner jobs --tag nightly --since 1d
  threadrunner jobs --watch
  threadrunner jobs --json --limit 1000 | jq -r '.jobs[] | select(.duration_s > 60) | .job'
  threadrunner jobs --state failed --state canceled --ids | threadrunner retry -
  threadrunner jobs --older-than 7d --state done --ids | threadrunner rm -";

/// What `wait --help` says at its end.
pub(super) const WAIT: &str = "\
An id is printed when its job ends, at once for one that has ended already. The exit code is 6 if
any of them failed or was canceled, and 4 when the time given by --timeout is over.

Examples:
  id=$(threadrunner --detach \"A long story\") && threadrunner wait $id && threadrunner result $id
  for f in *.txt; do threadrunner --detach \"Summarize\" < $f; done | threadrunner wait -
  threadrunner wait --all --timeout 1h
  threadrunner wait --tag nightly | while read -r id; do threadrunner result $id; done
  threadrunner wait --tag nightly && echo all done
  threadrunner wait --idle && shutdown now";

/// What `retry --help` says at its end.
pub(super) const RETRY: &str = "\
Examples:
  threadrunner retry last
  threadrunner jobs --state failed --since 1d --ids | threadrunner retry - | threadrunner wait -";

/// Which jobs to list.
#[derive(Debug, Clone, Args)]
pub(crate) struct JobsArgs {
    /// Only in this state (repeatable)
    #[arg(long = "state", value_name = "STATE", value_parser = values::state())]
    pub(crate) states: Vec<JobStatus>,
    /// Only with this tag
    #[arg(long, value_name = "WORD")]
    pub(crate) tag: Option<String>,
    /// Only of this model
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Only submitted in the last 30m, 2h, 7d
    #[arg(long, alias = "newer-than", value_name = "DURATION", value_parser = values::duration)]
    pub(crate) since: Option<Duration>,
    /// Only submitted longer ago than 30m, 2h, 7d
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    pub(crate) older_than: Option<Duration>,
    /// At most so many [default: 50, with --ids all]
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) limit: Option<u32>,
    /// Print ids alone, for other commands
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    pub(crate) ids: bool,
    /// Go on as jobs change: the list on a terminal (q leaves), else a line for each change
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print JSON; with --watch, an object for each change
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which jobs to wait for.
#[derive(Debug, Clone, Args)]
pub(crate) struct WaitArgs {
    /// Ids, or unambiguous beginnings or ends of ids, or `last`; `-`, or none, reads them from
    /// standard input
    #[arg(value_name = "ID", conflicts_with_all = ["all", "tag", "idle"])]
    pub(crate) ids: Vec<String>,
    /// All that are queued or running now
    #[arg(long, conflicts_with_all = ["tag", "idle"])]
    pub(crate) all: bool,
    /// All with this tag, also those that have ended
    #[arg(long, value_name = "WORD", conflicts_with = "idle")]
    pub(crate) tag: Option<String>,
    /// Until nothing is queued or running, whatever is submitted meanwhile; prints nothing
    #[arg(long, conflicts_with = "workspace")]
    pub(crate) idle: bool,
    /// Only for the first of them to end; with --all or --tag, exit code 7 where all have ended
    #[arg(long, conflicts_with = "idle")]
    pub(crate) any: bool,
    /// Give up waiting after this long; the jobs go on
    #[arg(long, value_name = "DURATION", value_parser = values::limit)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print JSON, one object for each job
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which jobs to follow.
#[derive(Debug, Clone, Args)]
pub(crate) struct FollowArgs {
    /// Ids, or unambiguous beginnings or ends of ids, or `last`; `-`, or none, reads them from
    /// standard input. Many are followed one after the other
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Give up waiting after this long; the jobs go on
    #[arg(long, value_name = "DURATION", value_parser = values::limit)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print one JSON object when a job has ended
    #[arg(long)]
    pub(crate) json: bool,
    /// Say at the end how long it took: to the first token, and tokens per second
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Show the answer as it is written, also on a terminal, where Markdown is set off otherwise
    #[arg(long)]
    pub(crate) plain: bool,
}

/// Which jobs.
#[derive(Debug, Clone, Args)]
pub(crate) struct JobArgs {
    /// Ids, or unambiguous beginnings or ends of ids, or `last`; `-`, or none, reads them from
    /// standard input
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print JSON, one object for each job
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which jobs need not be kept.
#[derive(Debug, Clone, Args)]
pub(crate) struct PruneArgs {
    /// Those that ended longer ago than this: 30m, 2h, 7d
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    pub(crate) older_than: Duration,
    /// Keep those that failed
    #[arg(long)]
    pub(crate) keep_failed: bool,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
