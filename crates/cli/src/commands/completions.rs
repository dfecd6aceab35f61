//! A completion script for a shell.

use clap::CommandFactory;
use threadrunner_core::ExitCode;

use crate::args::{Cli, CompletionsArgs};
use crate::error::CommandResult;
use crate::output;

pub(crate) fn run(args: CompletionsArgs) -> CommandResult {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "threadrunner", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::Success)
}
