//! `rm`: removes jobs that have ended.

use threadrunner_core::protocol::{NotRemoved, Removed, ask};
use threadrunner_core::{ExitCode, Failure};
use threadrunner_home::Home;

use super::ids::{distinct, each, from_arguments_or_stdin};
use crate::args::JobArgs;
use crate::error::{CommandError, CommandResult};
use crate::output;
use crate::session::with_session;

pub(crate) fn run(args: JobArgs) -> CommandResult {
    let ids = from_arguments_or_stdin(args.ids)?;
    with_session(Home::from_env()?, None, async |session| {
        let ids = distinct(session, ids, &args.within).await?;
        each(session, ids, &args.within, args.json, async |session, job| {
            let removed = session.call(ask::Rm(job)).await?;
            match args.json {
                true => output::print_json(&removed)?,
                false => print_ids(&removed)?,
            }
            Ok(ExitCode::Success)
        })
        .await
    })
}

/// The failure for jobs that could not be removed, if there are any. JSON tells of them already.
pub(crate) fn check_all_removed(failed: &[NotRemoved], json: bool) -> Result<(), CommandError> {
    let Some(first) = failed.first() else { return Ok(()) };
    if json {
        return Err(CommandError::Silent(first.error.code.exit_code()));
    }
    let message = match failed.len() {
        1 => first.error.message.clone(),
        jobs => format!("cannot remove {jobs} jobs; the first: {}", first.error.message),
    };
    Err(Failure { message, ..first.error.clone() }.into())
}

/// Prints the ids of removed jobs.
pub(crate) fn print_ids(removed: &Removed) -> std::io::Result<()> {
    let ids: String = removed.jobs.iter().map(|job| format!("{job}\n")).collect();
    output::print(&ids)
}
