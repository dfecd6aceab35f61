//! The arguments of `chat` and `sessions`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use threadrunner_core::{BackendKind, SessionName, WorkspaceName};

use super::sampling::SamplingArgs;
use super::{WorkspaceArg, values};

/// The end of `chat --help`.
pub(super) const CHAT: &str = "\
While it runs:
  /help lists the commands (/model, /system, /retry, /undo, /show, /save, /quit). Ctrl-C stops an
  answer, not the chat; Ctrl-D leaves. A line that ends with a backslash continues on the next, and
  text between two \"\"\" may have any number of lines. A turn that is stopped or fails is not part
  of the conversation. If standard input is not a terminal, each of its lines is a turn, and the
  first failure ends the chat.

Examples:
  threadrunner chat
  threadrunner chat --session work --system \"You are brief\"
  threadrunner chat -c
  printf 'My name is Ann.\\nWhat is my name?\\n' | threadrunner chat";

/// The end of `sessions --help`.
pub(super) const SESSIONS: &str = "\
Examples:
  threadrunner --session trip \"I am going to Lisbon\"
  threadrunner -c \"What should I see there?\"
  threadrunner sessions
  threadrunner sessions show trip
  threadrunner sessions show --json trip | jq -r '.conversation[].job'
  threadrunner sessions export trip --format markdown > trip.md
  threadrunner sessions undo trip    # takes the last turn back
  threadrunner sessions rm trip";

/// Which conversation a prompt belongs to.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SessionArgs {
    /// Continue the conversation of this name, or begin it
    ///
    /// It keeps its model and instructions, unless -m or -s replace them from here on. A turn that
    /// fails or is canceled is not part of it.
    #[arg(long, value_name = "NAME", help_heading = "Conversation", value_parser = values::session)]
    pub(crate) session: Option<SessionName>,

    /// Continue the most recent conversation; with --session, that one, which must exist
    #[arg(short = 'c', long = "continue", help_heading = "Conversation")]
    pub(crate) continues: bool,
}

/// The arguments of `chat`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) within: SessionArgs,

    /// Use this model: a name from `threadrunner models`, an alias, or a path
    #[arg(short, long, value_name = "NAME")]
    pub(crate) model: Option<String>,

    /// Speed up answers with this draft model; `none` disables it
    #[arg(long, value_name = "NAME")]
    pub(crate) draft: Option<String>,

    /// Give these instructions to the model
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) system: Option<String>,

    /// Use this backend [default: THREADRUNNER_BACKEND, else config.toml, else as built]
    #[arg(long, value_name = "NAME", value_parser = values::backend())]
    pub(crate) backend: Option<BackendKind>,

    /// Keep the conversation in this workspace: a name, or a directory [default: default]
    #[arg(short, long, value_name = "NAME", value_parser = values::workspace)]
    pub(crate) workspace: Option<WorkspaceName>,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// Report timings after each answer: time to the first token, tokens per second
    #[arg(short, long, help_heading = "Output")]
    pub(crate) verbose: bool,

    /// Show answers as they are, without formatting their Markdown on a terminal
    #[arg(long, help_heading = "Output")]
    pub(crate) plain: bool,
}

/// The arguments of `sessions`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SessionsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<SessionsCommand>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// What to do with conversations; `list` if none is given.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum SessionsCommand {
    /// List conversations, most recent first
    List(ListArgs),
    /// Print a conversation
    Show(ShowArgs),
    /// Remove the last question and its answer; the job stays
    Undo(UndoArgs),
    /// Remove conversations and their cached state; their jobs stay, unless --jobs is given
    Rm(RmArgs),
    /// Print or save a conversation in a format for other programs
    Export(ExportArgs),
}

/// Which conversations to list.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListArgs {
    /// List at most N conversations
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) limit: Option<u32>,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which conversation to show.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShowArgs {
    /// A name from `threadrunner sessions`
    #[arg(value_name = "NAME", value_parser = values::session)]
    pub(crate) session: SessionName,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print JSON, with the id of each turn's job
    #[arg(long)]
    pub(crate) json: bool,
    /// Show answers as they are, without formatting their Markdown on a terminal
    #[arg(long)]
    pub(crate) plain: bool,
}

/// Which conversation to undo a turn of.
#[derive(Debug, Clone, Args)]
pub(crate) struct UndoArgs {
    /// A name from `threadrunner sessions`
    #[arg(value_name = "NAME", value_parser = values::session)]
    pub(crate) session: SessionName,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which conversations to remove.
#[derive(Debug, Clone, Args)]
pub(crate) struct RmArgs {
    /// Names from `threadrunner sessions`
    #[arg(value_name = "NAME", required = true, value_parser = values::session)]
    pub(crate) sessions: Vec<SessionName>,
    /// Remove the jobs of their turns, too
    #[arg(long)]
    pub(crate) jobs: bool,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print JSON, one object per conversation
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which conversation to export, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExportArgs {
    /// A name from `threadrunner sessions`
    #[arg(value_name = "NAME", value_parser = values::session)]
    pub(crate) session: SessionName,
    /// Export in this format
    #[arg(long, value_enum, default_value_t = ExportFormat::Json)]
    pub(crate) format: ExportFormat,
    /// Export as JSON, the default
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
    /// Write to this new file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
}

/// The format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// An object with a list of messages, as chat programs exchange them
    Json,
    /// Text with headings
    Markdown,
}
