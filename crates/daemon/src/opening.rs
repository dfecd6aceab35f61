//! Opens a workspace.

use std::time::SystemTime;

use threadrunner_core::{Failure, JobId};
use threadrunner_home::{Durability, Home, WorkspaceSettings, machine_number};
use threadrunner_workspace::{Options, Reader, Workspace};

use crate::pid_note;

/// A workspace that this daemon has opened, and its queue.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) workspace: Workspace,
    pub(crate) ready: Vec<JobId>,
}

/// Opens a workspace, and recovers what an earlier daemon left in it.
///
/// # Errors
/// It cannot be used, or another program uses it.
pub(crate) fn open(
    home: &Home,
    settings: &WorkspaceSettings,
    durability: Durability,
) -> Result<Opened, Failure> {
    let durability = match durability {
        Durability::Durable => threadrunner_workspace::Durability::Durable,
        Durability::Relaxed => threadrunner_workspace::Durability::Relaxed,
    };
    let options =
        Options { durability, max_attempts: settings.max_attempts, machine: machine_number(home) };
    let name = &settings.name;
    let usable =
        home.check_workspace(&settings.path).and_then(|()| pid_note::check(&settings.path));
    let opened = usable.and_then(|()| {
        Workspace::open(&settings.path, options, SystemTime::now()).map_err(Failure::from)
    });
    let (workspace, recovered) = opened.map_err(|failure| {
        tracing::error!(workspace = %name, %failure, "the workspace cannot be used");
        let message = format!("the workspace '{name}' cannot be used: {}", failure.message);
        Failure { message, ..failure }
    })?;
    pid_note::write(&settings.path);
    tracing::info!(
        workspace = %name,
        path = %settings.path.display(),
        queued = recovered.queued.len(),
        requeued = recovered.requeued.len(),
        finished = recovered.finished.len(),
        failed = recovered.failed.len(),
        "workspace opened"
    );
    for trouble in &recovered.troubles {
        tracing::warn!(%trouble, "left as it is");
    }
    Ok(Opened { workspace, ready: recovered.queued })
}

/// Reads the names of all jobs once, so that the first request for the newest jobs does not have to
/// read a million of them. Runs in a thread of the lowest priority.
pub(crate) fn remember_names(reader: Reader) {
    let read = move || {
        // On Linux, niceness is per thread.
        let _ = rustix::process::nice(19);
        if let Err(error) = reader.newest(&[], 1) {
            tracing::debug!(%error, "cannot read the names of the jobs");
        }
    };
    // Without the thread, the first request reads them.
    let _ = std::thread::Builder::new().name("names".to_owned()).spawn(read);
}
