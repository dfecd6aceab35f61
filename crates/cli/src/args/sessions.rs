//! The options of conversations.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use threadrunner_core::{BackendKind, SessionName};

use super::options::SamplingArgs;
use super::{WorkspaceArg, values};

/// What `chat --help` says at its end.
pub(super) const CHAT: &str = "\
While it runs:
  /help tells the commands (/model, /system, /retry, /show, /save, /quit); Ctrl-C stops an answer
  and not the chat; Ctrl-D leaves. A line that ends with a backslash goes on in the next one, and
  so does everything between two \"\"\". What is stopped or fails is not part of the conversation.
  Without a terminal each line of standard input is a turn, and the first failure ends it.

Examples:
  threadrunner chat
  threadrunner chat --session work --system \"You are brief\"
  threadrunner chat -c
  printf 'My name is Ann.\\nWhat is my name?\\n' | threadrunner chat";

/// What `sessions --help` says at its end.
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
    /// Go on with the conversation of this name, or begin it
    ///
    /// The model and the instructions are the conversation's, unless -m or -s say otherwise from
    /// here on. A turn that fails or is canceled is not part of it.
    #[arg(long, value_name = "NAME", help_heading = "Conversation", value_parser = values::session)]
    pub(crate) session: Option<SessionName>,

    /// Go on with the conversation last spoken in; with --session, only if there is one
    #[arg(short = 'c', long = "continue", help_heading = "Conversation")]
    pub(crate) continues: bool,
}

/// How to chat.
#[derive(Debug, Clone, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) within: SessionArgs,

    /// The model: a name from `threadrunner models`, an alias, or a path
    #[arg(short, long, value_name = "NAME")]
    pub(crate) model: Option<String>,

    /// A small model that guesses what the model will say; `none` is none
    #[arg(long, value_name = "NAME")]
    pub(crate) draft: Option<String>,

    /// Instructions for the model
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) system: Option<String>,

    /// The backend [default: THREADRUNNER_BACKEND, else config.toml, else as built]
    #[arg(long, value_name = "NAME", value_parser = values::backend())]
    pub(crate) backend: Option<BackendKind>,

    /// The workspace to keep the conversation in: a name, or a directory [default: default]
    #[arg(short, long, value_name = "NAME", value_parser = values::workspace)]
    pub(crate) workspace: Option<String>,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// Say after each answer how long it took: to the first token, and tokens per second
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// Show answers as they are written, where Markdown is set off otherwise
    #[arg(long)]
    pub(crate) plain: bool,
}

/// What to do with conversations.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SessionsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<SessionsCommand>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// What to do with conversations; without a word, `list`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum SessionsCommand {
    /// List conversations, the one last spoken in first
    List(ListArgs),
    /// Print what was said
    Show(ShowArgs),
    /// Take back the last turn, question and answer; its job stays
    Undo(UndoArgs),
    /// Forget conversations, and what is cached of them; their jobs stay, unless --jobs
    Rm(RmArgs),
    /// Print what was said, for other programs
    Export(ExportArgs),
}

/// Which conversations to list.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListArgs {
    /// At most so many
    #[arg(short = 'n', long, value_name = "N")]
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
}

/// Which conversation to take a turn back of.
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

/// Which conversations to forget.
#[derive(Debug, Clone, Args)]
pub(crate) struct RmArgs {
    /// Names from `threadrunner sessions`
    #[arg(value_name = "NAME", required = true, value_parser = values::session)]
    pub(crate) sessions: Vec<SessionName>,
    /// Remove the jobs that are their turns, too
    #[arg(long)]
    pub(crate) jobs: bool,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
    /// Print JSON, one object for each
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which conversation to export.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExportArgs {
    /// A name from `threadrunner sessions`
    #[arg(value_name = "NAME", value_parser = values::session)]
    pub(crate) session: SessionName,
    /// `json` is a list of messages, as chat programs exchange them
    #[arg(long, value_enum, default_value_t = ExportFormat::Json)]
    pub(crate) format: ExportFormat,
    /// Write to this new file, and not to standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) within: WorkspaceArg,
}

/// In what form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// An object with the messages
    Json,
    /// A text with headings
    Markdown,
}
