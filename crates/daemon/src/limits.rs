//! The limit on open files, and how many connections it allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use threadrunner_core::{ErrorCode, Failure};

use crate::peers::{CONNECTIONS, RESERVE};

/// Files that are open anyway: the daemon's own, its engines' and those of running jobs.
const OWN: usize = 48;
const WORKSPACE: usize = 16;
/// Per connection: its socket, and a duplicate while its client reads slowly.
const CONNECTION: usize = 2;
/// With fewer connections, the daemon refuses to start.
const LEAST: usize = 8;
/// The limit that the daemon asks for at most.
const ENOUGH: u64 = 8192;

/// Raises the limit on open files as far as possible, and returns how many connections that allows.
///
/// # Errors
/// [`ErrorCode::DaemonUnavailable`] if the limit is too low to serve at all.
pub(crate) fn connections(workspaces: usize) -> Result<usize, Failure> {
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if limit.current.is_some_and(|current| current < most) {
        let raised = Rlimit { current: Some(most), ..limit };
        // If the system refuses, the old limit stays.
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
                "the daemon can open only {files} files at once, but needs at least {}",
                own + LEAST * CONNECTION
            ),
        )
        .hint("raise `ulimit -n` where the daemon starts (`ulimit -Hn` shows the maximum)")),
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
