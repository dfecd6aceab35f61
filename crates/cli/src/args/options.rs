//! The commands and their options. Doc comments here are what `--help` prints.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use threadrunner_core::{BackendKind, JobId, JobSelector, KeepAlive, Priority, WorkspaceName};

use super::batch::{self, BatchArgs};
use super::config::{self, ConfigArgs};
use super::jobs::{self, FollowArgs, JobArgs, JobsArgs, PruneArgs, ResultArgs, WaitArgs};
use super::models::ModelsArgs;
use super::sampling::SamplingArgs;
use super::sessions::{self, ChatArgs, SessionArgs, SessionsArgs};
use super::values;

const EXAMPLES: &str = "\
Examples:
  threadrunner \"Why is the sky blue?\"
  threadrunner \"Summarize this\" < report.txt
  git diff | threadrunner --system \"You review code\" \"What could break?\"
  threadrunner --temperature 0 --max-tokens 50 --json \"Name a colour\" | jq -r .text
  id=$(threadrunner --detach \"A long story\"); threadrunner follow $id
  threadrunner --session trip \"I am in Lisbon\"; threadrunner -c \"Where am I?\"
  threadrunner chat

Put a prompt that begins with a command's name after `run` or `--`:
  threadrunner run jobs are hard to find
The same goes for one or two words that resemble one (`modles`, `rsult last`, `stop mistral`).

Exit codes:
  0 done   2 no daemon   3 model   4 timed out   5 queue full   6 job failed
  7 not found   64 wrong usage or configuration   74 a file, the disk or the output
  130 interrupted   1 a bug";

const RUN_EXAMPLES: &str = "\
Where the prompt comes from:
  Arguments are joined by spaces. If standard input is not a terminal, it is read to its end and
  follows the arguments after an empty line; without arguments, it is the prompt. One newline at
  its end is dropped, except with --raw. In a script whose standard input is for something else,
  add `< /dev/null`: while standard input stays open, threadrunner waits for it, at most as long
  as --timeout, or 10 s with --detach.

Examples:
  threadrunner run jobs are hard to find
  threadrunner run --raw \"Once upon a time\" --max-tokens 100
  threadrunner run --detach --tag nightly \"Write the report\"

One job after another:
  a=$(threadrunner --detach \"Name a colour\")
  b=$(threadrunner --detach \"Name an animal\")
  threadrunner \"A poem about this animal: {{result:$b}}, in this colour: {{result:$a}}\"
  threadrunner --detach --after $a --after $b \"Both are done by now\"
  threadrunner --detach --on-done ~/bin/file-it \"Write the report\"";

/// Local language models, like any other Unix tool
///
/// Type a prompt and the answer streams to standard output. A daemon that starts by itself keeps
/// the model loaded, answers many requests at once, records each as a job, and unloads the model
/// when it is idle.
#[derive(Debug, Parser)]
#[command(
    name = "threadrunner",
    version,
    override_usage = "threadrunner [OPTIONS] [PROMPT]...\n       threadrunner <COMMAND>",
    after_help = "`threadrunner --help` says more, and has examples.",
    after_long_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// The commands. Without one, the arguments are a prompt.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer a prompt (the word `run` may be left out)
    #[command(after_long_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Answer a file of prompts; can be stopped and resumed
    #[command(after_long_help = batch::HELP)]
    Batch(BatchArgs),
    /// Chat with a model; Ctrl-C stops an answer, Ctrl-D leaves
    #[command(after_long_help = sessions::CHAT)]
    Chat(ChatArgs),
    /// List, show, undo, export or remove conversations
    #[command(after_long_help = sessions::SESSIONS)]
    Sessions(SessionsArgs),
    /// Show loaded models and running requests
    Ps(Plain),
    /// Show the daemon's state
    Status(Plain),
    /// List models, or set the default
    Models(ModelsArgs),
    /// Load a model ahead of its next prompt
    Load(LoadArgs),
    /// Unload one model, or all
    Unload(UnloadArgs),
    /// List jobs, newest first
    #[command(after_long_help = jobs::LIST)]
    Jobs(JobsArgs),
    /// Print the answers of finished jobs
    Result(ResultArgs),
    /// Wait for jobs to end, and print the id of each
    #[command(after_long_help = jobs::WAIT)]
    Wait(WaitArgs),
    /// Stream jobs' answers from the beginning, whatever their state
    Follow(FollowArgs),
    /// Cancel queued or running jobs
    Cancel(JobArgs),
    /// Queue failed or canceled jobs again
    #[command(after_long_help = jobs::RETRY)]
    Retry(JobArgs),
    /// Remove ended jobs and all their files
    Rm(JobArgs),
    /// Remove jobs that ended long ago
    Prune(PruneArgs),
    /// Start, stop or inspect the daemon
    Daemon(DaemonArgs),
    /// Check, show or edit the configuration
    #[command(after_long_help = config::HELP)]
    Config(ConfigArgs),
    /// Check the installation and suggest fixes
    Doctor(Plain),
    /// Print a shell completion script
    Completions(CompletionsArgs),
}

/// A prompt, and how to answer it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RunArgs {
    /// The prompt; words are joined by spaces, and standard input follows them
    ///
    /// If standard input is not a terminal, it is read to its end and follows the words after an
    /// empty line. Without words, it is the prompt.
    #[arg(value_name = "PROMPT")]
    pub(crate) words: Vec<String>,

    /// Use this model: a name from `threadrunner models`, an alias, or a path
    ///
    /// Default: THREADRUNNER_MODEL_PATH, else the one set with `threadrunner models default`, else
    /// the only one there is, else the one used last.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) model: Option<String>,

    /// Speed up the answer with this draft model
    ///
    /// A draft model is a small model that guesses what the model will say; both must have the
    /// same vocabulary. Default: `draft` of the model in config.toml; `none` disables it. A greedy
    /// answer may differ where two tokens are almost equally likely. An answer with a seed is not
    /// drafted, and stays the same.
    #[arg(long, value_name = "NAME")]
    pub(crate) draft: Option<String>,

    /// Give these instructions to the model
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) system: Option<String>,

    /// Use this backend [default: THREADRUNNER_BACKEND, else config.toml, else as built]
    #[arg(long, value_name = "NAME", value_parser = values::backend())]
    pub(crate) backend: Option<BackendKind>,

    /// Send the prompt to the model as it is, without its chat template
    #[arg(long, conflicts_with_all = ["system", "session", "continues"])]
    pub(crate) raw: bool,

    #[command(flatten)]
    pub(crate) within: SessionArgs,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// Keep the model loaded this long afterwards: 10m, 0, forever [default: as configured]
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, help_heading = "Job")]
    pub(crate) keep_alive: Option<KeepAlive>,

    /// Print one JSON object: text, job, model, finish_reason, usage, timings
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,

    /// Print the answer only when it is complete
    #[arg(long, help_heading = "Output")]
    pub(crate) no_stream: bool,

    /// Report timings at the end: time to the first token, tokens per second
    #[arg(short, long, help_heading = "Output", conflicts_with = "quiet")]
    pub(crate) verbose: bool,

    /// Show the answer as it is, without formatting its Markdown on a terminal
    #[arg(long, help_heading = "Output")]
    pub(crate) plain: bool,

    /// Print nothing but the answer, or why it failed
    #[arg(short, long, help_heading = "Output")]
    pub(crate) quiet: bool,

    /// Keep the job in this workspace: a name in config.toml, or a directory such as ./ws
    ///
    /// A new or empty directory becomes a workspace. Default: `default`.
    #[arg(short, long, value_name = "NAME", help_heading = "Job", value_parser = values::workspace)]
    pub(crate) workspace: Option<WorkspaceName>,

    /// Queue the prompt as a job, print its id, and return at once
    #[arg(long, help_heading = "Job", conflicts_with = "no_stream")]
    pub(crate) detach: bool,

    /// Give up after this long: 30, 30s, 5m
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, help_heading = "Job", value_parser = values::limit)]
    pub(crate) timeout: Option<Duration>,

    /// Tag the job with this word, to find it by (repeatable)
    #[arg(long = "tag", value_name = "WORD", help_heading = "Job")]
    pub(crate) tags: Vec<String>,

    /// Set the parent: the id of the job that this one follows
    #[arg(
        long,
        value_name = "ID",
        help_heading = "Job",
        value_parser = values::job_id,
        conflicts_with_all = ["session", "continues"]
    )]
    pub(crate) parent: Option<JobId>,

    /// Begin once this job is done: an id, part of an id, or `last` (repeatable)
    ///
    /// The job is held until all of them are done. If one fails or is canceled, it fails too.
    #[arg(long, value_name = "ID", help_heading = "Job")]
    pub(crate) after: Vec<JobSelector>,

    /// Begin once those jobs have ended, even if some failed
    #[arg(long, help_heading = "Job")]
    pub(crate) after_any: bool,

    /// Leave `{{result:ID}}` in the prompt as it is
    ///
    /// Otherwise it is replaced by the answer of that job, for which this one waits as with
    /// --after. ID may be part of an id, or `last`. Text from standard input is never replaced.
    #[arg(long, help_heading = "Job")]
    pub(crate) literal: bool,

    /// Run this program when the job has ended, with the job's directory as argument
    ///
    /// The daemon runs it without a shell, and sets THREADRUNNER_JOB_ID and THREADRUNNER_JOB_STATUS
    /// (done, failed, canceled). Its output, up to 1 MiB, goes to on_done.log in that directory.
    #[arg(long, value_name = "PROGRAM", help_heading = "Job")]
    pub(crate) on_done: Option<PathBuf>,

    /// Try the job at most N times if the engine dies [default: config.toml, else 3]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Job", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) attempts: Option<u32>,

    /// Set the priority [default: interactive, or normal with --detach]
    #[arg(long, value_name = "NAME", help_heading = "Job", value_parser = values::priority())]
    pub(crate) priority: Option<Priority>,
}

/// The arguments of commands that take none but `--json`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Plain {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to load.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// A name from `threadrunner models`, an alias, or a path [default: as for a prompt]
    pub(crate) model: Option<String>,
    /// Load it with this draft model [default: `draft` of the model in config.toml]
    #[arg(long, value_name = "NAME")]
    pub(crate) draft: Option<String>,
    /// Keep it until it is unloaded by name, even if it is idle or another model needs room
    #[arg(long)]
    pub(crate) pin: bool,
    /// Keep it this long when idle, until a request says otherwise: 10m, 0, forever
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, conflicts_with = "pin")]
    pub(crate) keep_alive: Option<KeepAlive>,
    /// Use this backend
    #[arg(long, value_name = "NAME", value_parser = values::backend())]
    pub(crate) backend: Option<BackendKind>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to unload.
#[derive(Debug, Clone, Args)]
pub(crate) struct UnloadArgs {
    /// A name from `threadrunner ps`, an alias, or a path [default: all that are not pinned]
    pub(crate) model: Option<String>,
    /// Unload models of this backend only
    #[arg(long, value_name = "NAME", value_parser = values::backend())]
    pub(crate) backend: Option<BackendKind>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which workspace to look in.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WorkspaceArg {
    /// Look only in this workspace: a name in config.toml, or a directory [default: any]
    #[arg(short, long, value_name = "NAME", value_parser = values::workspace)]
    pub(crate) workspace: Option<WorkspaceName>,
}

/// The arguments of `daemon`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DaemonArgs {
    #[command(subcommand)]
    pub(crate) command: DaemonCommand,
}

/// What to do with the daemon. It starts by itself with the first prompt.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Start the daemon if none runs
    Start(Plain),
    /// Stop the daemon, after a grace time for running jobs
    Stop(StopArgs),
    /// Stop the daemon and start it again
    Restart(StopArgs),
    /// Show the daemon's state; exit code 2 if none runs
    Status(Plain),
    /// Show the end of the daemon's log
    Logs(LogsArgs),
    /// Run the daemon in the foreground
    Run(ForegroundArgs),
}

/// What a daemon in the foreground serves.
#[derive(Debug, Clone, Args)]
pub(crate) struct ForegroundArgs {
    /// Use this default model: a name from `threadrunner models`, an alias, or a path
    #[arg(short, long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Use this directory as the default workspace; it is created if missing
    #[arg(short, long, value_name = "DIRECTORY")]
    pub(crate) workspace: Option<PathBuf>,
}

/// How to stop.
#[derive(Debug, Clone, Args)]
pub(crate) struct StopArgs {
    /// Do not wait for running jobs; the next daemon begins them again
    ///
    /// A daemon that does not exit within seconds is sent SIGTERM, then SIGKILL.
    #[arg(long)]
    pub(crate) now: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How much of the log.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogsArgs {
    /// Print the last N lines
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 40
    )]
    pub(crate) lines: usize,
    /// Keep printing as the log grows
    #[arg(short, long)]
    pub(crate) follow: bool,
}

/// Which shell.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
The script makes the shell ask `threadrunner` for models, jobs, sessions, tags and workspaces.
Generate it again after an update.

Examples:
  threadrunner completions bash > ~/.local/share/bash-completion/completions/threadrunner
  threadrunner completions zsh > ~/.zfunc/_threadrunner
  threadrunner completions fish > ~/.config/fish/completions/threadrunner.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}
