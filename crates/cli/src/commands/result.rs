//! `result`: prints the answers of finished jobs.

use threadrunner_core::ExitCode;
use threadrunner_core::protocol::{JobResult, ask};
use threadrunner_home::Home;

use super::files::Files;
use super::ids::{each, from_arguments_or_stdin};
use crate::args::{JobArgs, ResultArgs};
use crate::error::CommandResult;
use crate::output;
use crate::session::with_session;

pub(crate) fn run(args: ResultArgs) -> CommandResult {
    let ResultArgs { of: JobArgs { ids, within, json }, plain } = args;
    let ids = from_arguments_or_stdin(ids)?;
    with_session(Home::from_env()?, None, async |session| {
        let files = Files::alone(session, within.workspace.as_ref()).await?;
        each(session, ids, &within, json, async |session, job| {
            let result: JobResult = match files.as_ref().and_then(|files| files.result(&job)) {
                Some(result) => result,
                None => session.call(ask::Result(job)).await?,
            };
            if json {
                output::print_json(&result)?;
                return Ok(ExitCode::Success);
            }
            let newline =
                if result.text.is_empty() || result.text.ends_with('\n') { "" } else { "\n" };
            let text = output::for_terminal(result.text + newline, plain)
                + &output::lines_of(&result.output);
            session.attempt(output::print_patiently(&text)).await?;
            Ok(ExitCode::Success)
        })
        .await
    })
}
