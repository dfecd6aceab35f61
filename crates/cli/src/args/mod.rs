//! What may stand on the command line.

mod options;
mod parse;
mod values;

pub(crate) use options::{
    CancelArgs, Cli, Command, CompletionsArgs, DaemonCommand, FollowArgs, JobsArgs, LoadArgs,
    LogsArgs, Plain, ResultArgs, RunArgs, StopArgs, UnloadArgs, WaitArgs,
};
pub(crate) use parse::{parse, short_help};
