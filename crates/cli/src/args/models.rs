//! The arguments of `models`.

use clap::{Args, Subcommand};

/// The arguments of `models`.
#[derive(Debug, Clone, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_long_help = "\
Examples:
  threadrunner models
  threadrunner models default                     # which one answers, and why
  threadrunner models default Qwen3-4B-Q4_K_M"
)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ModelsCommand>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to do with models; without a subcommand, list them.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Set the default model; without NAME, show which model answers and why
    Default(DefaultArgs),
}

/// The default model.
#[derive(Debug, Clone, Args)]
pub(crate) struct DefaultArgs {
    /// A name from `threadrunner models`, an alias, or a path; written to config.toml
    #[arg(value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
