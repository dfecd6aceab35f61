//! How many files the system lets the daemon open, and how many clients it can serve with them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use threadrunner_core::{ErrorCode, Failure};

use crate::peers::{CONNECTIONS, RESERVE};

/// What is open anyway: the daemon's own files, its engines', those of the jobs at work.
const OWN: usize = 48;
const WORKSPACE: usize = 16;
/// A connection's: its own, and one more while its client reads slowly.
const CONNECTION: usize = 2;
/// With fewer connections it would be of no use to anybody.
const LEAST: usize = 8;
/// More files are not asked for.
const ENOUGH: u64 = 8192;

/// Raises the limit on open files as far as it goes, and tells how many connections that allows.
///
/// # Errors
/// [`ErrorCode::DaemonUnavailable`] where it is too low to serve anybody.
pub(crate) fn connections(workspaces: usize) -> Result<usize, Failure> {
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if limit.current.is_some_and(|current| current < most) {
        let raised = Rlimit { current: Some(most), ..limit };
        // A system that refuses has said what is allowed.
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let files = limit.current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    within(files, workspaces)
}

fn within(files: usize, workspaces: usize) -> Result<usize, Failure> {
    let own = OWN + WORKSPACE * workspaces + RESERVE;
    match files.saturating_sub(own) / CONNECTION {
        LEAST.. => Ok(CONNECTIONS.min((files - own) / CONNECTION)),
        _ => Err(Failure::new(
            ErrorCode::DaemonUnavailable,
            format!(
                "the daemon may open only {files} files at once, and needs {} to serve anybody",
                own + LEAST * CONNECTION
            ),
        )
        .hint("raise `ulimit -n` where it is started (`ulimit -Hn` says how far you may)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_connections_as_there_are_files_for() {
        assert_eq!(within(usize::MAX, 1).unwrap(), CONNECTIONS);
        assert_eq!(within(1024, 1).unwrap(), 472);
        assert!(within(1024, 9).unwrap() < 472);
    }

    #[test]
    fn too_few_files_are_refused_with_how_many_there_must_be() {
        let failure = within(20, 1).unwrap_err();
        assert_eq!(failure.code, ErrorCode::DaemonUnavailable);
        assert!(
            failure.message.contains("20 files") && failure.message.contains("96"),
            "{failure}"
        );
        assert_eq!(within(95, 1).unwrap_err().code, ErrorCode::DaemonUnavailable);
        assert_eq!(within(96, 1).unwrap(), LEAST);
    }
}
