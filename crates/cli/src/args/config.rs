//! The arguments of `config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// The end of `config --help`.
pub(super) const HELP: &str = "\
Examples:
  threadrunner config show
  threadrunner config edit && threadrunner daemon restart
  threadrunner config check new.toml && mv new.toml ~/.threadrunner/config.toml
  threadrunner config show --json | jq .settings.memory_budget";

/// The arguments of `config`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

/// What to do with config.toml.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check config.toml; exit code 64 if it has a mistake
    Check(CheckArgs),
    /// Show every key with its effective value
    Show(ShowConfigArgs),
    /// Edit config.toml in $VISUAL or $EDITOR; a file with a mistake is not saved
    Edit,
}

/// What to show.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShowConfigArgs {
    /// Show every key's default, and ignore config.toml even if it has a mistake
    #[arg(long)]
    pub(crate) defaults: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which file to check.
#[derive(Debug, Clone, Args)]
pub(crate) struct CheckArgs {
    /// Check this file instead, before it becomes config.toml
    pub(crate) file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
