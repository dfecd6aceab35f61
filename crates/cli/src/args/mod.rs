//! What may stand on the command line.

mod options;
mod parse;
mod values;

pub(crate) use options::{
    Cli, Command, CompletionsArgs, DaemonCommand, FollowArgs, JobArgs, JobsArgs, LoadArgs,
    LogsArgs, Plain, PruneArgs, RunArgs, StopArgs, UnloadArgs, WaitArgs, WorkspaceArg,
};
pub(crate) use parse::{parse, short_help};
