//! Broadcasts the changes of all jobs to the clients that watch them.

use threadrunner_core::{JobId, JobStatus};
use tokio::sync::broadcast;

use super::hub::Change;
use super::owner::Owner;
use crate::workspaces::WorkspaceId;

/// How many changes a watcher may lag behind. Beyond that it misses the oldest and is told so.
const BEHIND: usize = 4096;

/// The owner's end of the broadcast channel.
pub(super) type Changes = broadcast::Sender<Change>;

/// Creates the broadcast channel.
pub(super) fn changes() -> Changes {
    broadcast::channel(BEHIND).0
}

impl Owner {
    /// The number of live jobs: queued, held or running.
    pub(super) fn live_count(&self) -> u32 {
        u32::try_from(self.live.len()).unwrap_or(u32::MAX)
    }

    /// Tells watchers that a job moved.
    pub(super) fn tell_change(&self, workspace: WorkspaceId, id: &JobId, state: Option<JobStatus>) {
        // Usually nobody watches; then this clones nothing.
        if self.changes.receiver_count() > 0 {
            // The last watcher may have gone since the check.
            let live = self.live_count();
            let _ = self.changes.send(Change { workspace, id: id.clone(), state, live });
        }
    }
}
