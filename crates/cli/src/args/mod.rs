//! What may stand on the command line.

mod batch;
mod jobs;
mod mistyped;
mod models;
mod options;
mod parse;
mod sessions;
mod values;

pub(crate) use batch::BatchArgs;
pub(crate) use jobs::{FollowArgs, JobArgs, JobsArgs, PruneArgs, WaitArgs};
pub(crate) use models::{DefaultArgs, ModelsArgs, ModelsCommand};
pub(crate) use options::{
    Cli, Command, CompletionsArgs, DaemonCommand, LoadArgs, LogsArgs, Plain, RunArgs, StopArgs,
    UnloadArgs, WorkspaceArg,
};
pub(crate) use parse::{Refused, parse, short_help};
pub(crate) use sessions::{
    ChatArgs, ExportArgs, ExportFormat, ListArgs, RmArgs, SessionArgs, SessionsArgs,
    SessionsCommand, ShowArgs, UndoArgs,
};
