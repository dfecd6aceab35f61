//! `prune`: removes jobs that ended long ago.

use threadrunner_core::ExitCode;
use threadrunner_core::protocol::{PruneQuery, ask};
use threadrunner_home::Home;

use super::rm::{check_all_removed, print_ids};
use crate::args::PruneArgs;
use crate::error::CommandResult;
use crate::output;
use crate::session::with_session;

pub(crate) fn run(args: PruneArgs) -> CommandResult {
    let query = PruneQuery {
        older_than_s: args.older_than.as_secs_f64(),
        keep_failed: args.keep_failed,
        workspace: args.within.workspace,
    };
    with_session(Home::from_env()?, None, async |session| {
        let removed = session.call(ask::Prune(query)).await?;
        match args.json {
            true => output::print_json(&removed)?,
            false => print_ids(&removed)?,
        }
        check_all_removed(&removed.failed, args.json)?;
        if !args.json && removed.jobs.is_empty() {
            output::say("no job is that old");
        }
        Ok(ExitCode::Success)
    })
}
