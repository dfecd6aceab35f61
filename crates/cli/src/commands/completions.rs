//! `completions`: prints the completion script of a shell.

use threadrunner_core::ExitCode;

use crate::args::CompletionsArgs;
use crate::error::CommandResult;
use crate::{complete, output};

pub(crate) fn run(args: CompletionsArgs) -> CommandResult {
    output::print(&complete::script(&args.shell.to_string())?)?;
    Ok(ExitCode::Success)
}
