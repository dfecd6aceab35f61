//! Waiting for the end of jobs.

use threadrunner_core::protocol::{JobRecord, Op};
use threadrunner_core::{ExitCode, JobState};
use threadrunner_home::Home;

use super::ids::{from_arguments_or_stdin, query};
use crate::app::{Limit, with_session};
use crate::args::WaitArgs;
use crate::error::CommandResult;
use crate::output;

pub(crate) fn run(args: WaitArgs) -> CommandResult {
    let ids = from_arguments_or_stdin(args.ids)?;
    let limit = args.timeout.map(|after| Limit { after, consequence: "the jobs go on" });
    with_session(Home::from_env()?, limit, async |session| {
        let mut code = ExitCode::Success;
        session.spinner.set(format!("waiting for {} jobs", ids.len()));
        for id in ids {
            let record: JobRecord = session.call(Op::Wait(query(id, &args.within))).await?;
            match args.json {
                true => output::print_json(&record)?,
                false => output::print(&format!("{}\n", record.job))?,
            }
            if record.state != JobState::Done {
                code = ExitCode::Failed;
                if let (false, Some(failure)) = (args.json, &record.meta.error) {
                    output::say(&format!("threadrunner: job {}: {failure}", record.job));
                }
            }
        }
        Ok(code)
    })
}
