//! Ids of jobs, from arguments or from standard input.

use threadrunner_core::protocol::JobQuery;

use crate::args::WorkspaceArg;
use crate::error::CommandError;
use crate::prompt::read_stdin;

/// The jobs named: the arguments, else the words on standard input, so that commands can be put
/// in a pipe.
pub(crate) fn from_arguments_or_stdin(ids: Vec<String>) -> Result<Vec<String>, CommandError> {
    let missing = || {
        CommandError::usage(
            "which job?",
            "give an id or `last`, or pipe ids in; `threadrunner jobs` lists them",
        )
    };
    if !ids.is_empty() {
        return Ok(ids);
    }
    let input = read_stdin()?.ok_or_else(missing)?;
    let ids: Vec<_> =
        String::from_utf8_lossy(&input).split_whitespace().map(str::to_owned).collect();
    if ids.is_empty() { Err(missing()) } else { Ok(ids) }
}

/// The query for one job.
pub(crate) fn query(job: String, within: &WorkspaceArg) -> JobQuery {
    JobQuery { job, workspace: within.workspace.clone() }
}
