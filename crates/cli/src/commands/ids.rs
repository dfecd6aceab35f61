//! The jobs that a command names, in its arguments or on standard input.

use std::collections::HashSet;

use threadrunner_core::protocol::{JobQuery, ask};
use threadrunner_core::{ErrorCode, ExitCode, JobSelector};

use crate::args::WorkspaceArg;
use crate::error::{CommandError, CommandResult};
use crate::output;
use crate::prompt::{BOM, Patience, read_stdin};
use crate::session::{Limit, Session};

/// Returns the named jobs: the arguments, or else the words on standard input, so that commands can
/// be piped together. A `-` among the arguments stands for standard input too, which then may be
/// empty.
pub(crate) fn from_arguments_or_stdin(ids: Vec<String>) -> Result<Vec<JobSelector>, CommandError> {
    from_arguments_or_stdin_within(ids, None)
}

/// Like [`from_arguments_or_stdin`], but waits for standard input no longer than `limit`.
pub(crate) fn from_arguments_or_stdin_within(
    ids: Vec<String>,
    limit: Option<&Limit>,
) -> Result<Vec<JobSelector>, CommandError> {
    let missing = || {
        CommandError::usage(
            "which job?",
            "give an id or `last`, or pipe ids in; `threadrunner jobs` lists them",
        )
    };
    if !ids.is_empty() && !ids.iter().any(|id| id == "-") {
        return Ok(with_input(ids, ""));
    }
    let input = read_stdin(Patience::of(limit))?.ok_or_else(missing)?;
    let input = String::from_utf8_lossy(&input);
    let asked_for = !ids.is_empty();
    let ids = with_input(ids, input.trim_start_matches(BOM));
    if ids.is_empty() && !asked_for { Err(missing()) } else { Ok(ids) }
}

/// Replaces each `-` with the words of `input`; without arguments, returns those words.
fn with_input(ids: Vec<String>, input: &str) -> Vec<JobSelector> {
    let words = || input.split_whitespace().map(JobSelector::from);
    if ids.is_empty() {
        return words().collect();
    }
    let named = |id: String| if id == "-" { words().collect() } else { vec![id.as_str().into()] };
    ids.into_iter().flat_map(named).collect()
}

/// The query for one job.
pub(crate) fn query(job: JobSelector, within: &WorkspaceArg) -> JobQuery {
    JobQuery { job, workspace: within.workspace.clone() }
}

/// Returns each named job once. Names such as `last` are looked up first, because acting on one job
/// may change what they mean.
pub(crate) async fn distinct(
    session: &mut Session,
    ids: Vec<JobSelector>,
    within: &WorkspaceArg,
) -> Result<Vec<JobSelector>, CommandError> {
    if ids.len() < 2 {
        return Ok(ids);
    }
    let mut seen = HashSet::new();
    let mut distinct = Vec::new();
    for mut id in ids {
        if !is_whole(&id) {
            match session.call(ask::Job(query(id.clone(), within))).await {
                Ok(record) => id = (&record.job).into(),
                // Reported when its turn comes.
                Err(CommandError::Failed { failure, .. }) if is_about_the_job(failure.code) => {}
                Err(error) => return Err(error),
            }
        }
        if seen.insert(id.clone()) {
            distinct.push(id);
        }
    }
    Ok(distinct)
}

/// Whether this is a whole id as ThreadRunner makes them.
fn is_whole(id: &JobSelector) -> bool {
    id.id().is_some_and(|id| id.machine().is_some())
}

/// Calls `act` for each job. If there are several, the failure of one is reported and does not stop
/// the others. Returns the exit code of the first failure.
pub(crate) async fn each(
    session: &mut Session,
    ids: Vec<JobSelector>,
    within: &WorkspaceArg,
    json: bool,
    mut act: impl AsyncFnMut(&mut Session, JobQuery) -> CommandResult,
) -> CommandResult {
    let alone = ids.len() == 1;
    let mut code = ExitCode::Success;
    for id in ids {
        let exit = match act(session, query(id, within)).await {
            Ok(exit) => exit,
            Err(CommandError::Failed { failure, job })
                if !alone && is_about_the_job(failure.code) =>
            {
                let exit = failure.code.exit_code();
                output::report(&CommandError::Failed { failure, job }, json);
                exit
            }
            Err(error) => return Err(error),
        };
        if code == ExitCode::Success {
            code = exit;
        }
    }
    Ok(code)
}

/// Whether a failure may concern one job alone, so that the others are worth a try.
fn is_about_the_job(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::JobNotFound
            | ErrorCode::NoText
            | ErrorCode::AmbiguousId
            | ErrorCode::InvalidRequest
            | ErrorCode::WrongState
            | ErrorCode::JobFailed
            | ErrorCode::Canceled
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_or_nothing_stands_for_standard_input() {
        let ids = |given: &[&str]| {
            let ids = with_input(given.iter().map(|&id| id.to_owned()).collect(), "1_1\n2_1 3_1\n");
            ids.iter().map(JobSelector::to_string).collect::<Vec<_>>()
        };
        assert_eq!(ids(&[]), ["1_1", "2_1", "3_1"]);
        assert_eq!(ids(&["-"]), ["1_1", "2_1", "3_1"]);
        assert_eq!(ids(&["last", "-", "7"]), ["last", "1_1", "2_1", "3_1", "7"]);
    }
}
