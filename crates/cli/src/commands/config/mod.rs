//! `config`: checks, shows and edits `config.toml`.

mod check;
mod edit;
mod show;

use crate::args::{ConfigArgs, ConfigCommand};
use crate::error::CommandResult;

pub(crate) fn run(args: ConfigArgs) -> CommandResult {
    match args.command {
        ConfigCommand::Check(args) => check::run(args),
        ConfigCommand::Show(args) => show::run(args),
        ConfigCommand::Edit => edit::run(),
    }
}
