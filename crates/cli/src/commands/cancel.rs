//! `cancel`: cancels jobs.

use threadrunner_core::ExitCode;
use threadrunner_core::protocol::ask;
use threadrunner_home::Home;

use super::ids::{distinct, each, from_arguments_or_stdin};
use crate::args::JobArgs;
use crate::error::CommandResult;
use crate::output;
use crate::session::with_session;

pub(crate) fn run(args: JobArgs) -> CommandResult {
    let ids = from_arguments_or_stdin(args.ids)?;
    with_session(Home::from_env()?, None, async |session| {
        let ids = distinct(session, ids, &args.within).await?;
        each(session, ids, &args.within, args.json, async |session, job| {
            let record = session.call(ask::Cancel(job)).await?;
            match args.json {
                true => output::print_json(&record)?,
                false => output::print(&format!("{}\n", record.job))?,
            }
            Ok(ExitCode::Success)
        })
        .await
    })
}
