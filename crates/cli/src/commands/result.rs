//! A finished job's answer.

use threadrunner_core::ExitCode;
use threadrunner_core::protocol::{JobResult, Op};
use threadrunner_home::Home;

use super::ids::{from_arguments_or_stdin, query};
use crate::app::with_session;
use crate::args::JobArgs;
use crate::error::CommandResult;
use crate::output;

pub(crate) fn run(args: JobArgs) -> CommandResult {
    let ids = from_arguments_or_stdin(args.ids)?;
    with_session(Home::from_env()?, None, async |session| {
        for id in ids {
            let result: JobResult = session.call(Op::Result(query(id, &args.within))).await?;
            if args.json {
                output::print_json(&result)?;
                continue;
            }
            let newline =
                if result.text.is_empty() || result.text.ends_with('\n') { "" } else { "\n" };
            session.attend(output::print_patiently(&(result.text + newline))).await??;
        }
        Ok(ExitCode::Success)
    })
}
