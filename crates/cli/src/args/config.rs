//! The options of `config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What `config --help` says at its end.
pub(super) const HELP: &str = "\
Examples:
  threadrunner config show
  threadrunner config edit && threadrunner daemon restart
  threadrunner config check new.toml && mv new.toml ~/.threadrunner/config.toml
  threadrunner config show --json | jq .settings.memory_budget";

/// The configuration.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

/// What to do with config.toml.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say what is wrong with it; exit code 64 where something is
    Check(CheckArgs),
    /// Show every key, with what is in effect
    Show(ShowConfigArgs),
    /// Open it in $VISUAL or $EDITOR; with a mistake in it, it is not saved
    Edit,
}

/// What to show.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShowConfigArgs {
    /// As if there were no file: every key with its default, also where the file has a mistake
    #[arg(long)]
    pub(crate) defaults: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which file to check.
#[derive(Debug, Clone, Args)]
pub(crate) struct CheckArgs {
    /// Another file, that is to become config.toml
    pub(crate) file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
