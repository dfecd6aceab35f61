//! The command line: commands, options, and how arguments become a [`Cli`].

mod batch;
mod config;
mod jobs;
mod mistyped;
mod models;
mod options;
mod parse;
mod sampling;
mod sessions;
mod values;

pub(crate) use batch::BatchArgs;
pub(crate) use config::{CheckArgs, ConfigArgs, ConfigCommand, ShowConfigArgs};
pub(crate) use jobs::{FollowArgs, JobArgs, JobsArgs, PruneArgs, ResultArgs, WaitArgs};
pub(crate) use models::{DefaultArgs, ModelsArgs, ModelsCommand};
pub(crate) use options::{
    Cli, Command, CompletionsArgs, DaemonCommand, ForegroundArgs, LoadArgs, LogsArgs, Plain,
    RunArgs, StopArgs, UnloadArgs, WorkspaceArg,
};
pub(crate) use parse::{Refused, parse, short_help};
pub(crate) use sessions::{
    ChatArgs, ExportArgs, ExportFormat, ListArgs, RmArgs, SessionArgs, SessionsArgs,
    SessionsCommand, ShowArgs, UndoArgs,
};
