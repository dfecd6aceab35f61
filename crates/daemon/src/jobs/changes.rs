//! What those are told who watch all jobs.

use threadrunner_core::{JobId, JobStatus};
use tokio::sync::broadcast;

use super::hub::Change;
use super::owner::Owner;
use crate::workspaces::WorkspaceId;

/// Changes that a watcher may be behind; then it misses the oldest, and is told so.
const BEHIND: usize = 4096;

/// The owner's end.
pub(super) type Changes = broadcast::Sender<Change>;

/// A new way to tell watchers.
pub(super) fn changes() -> Changes {
    broadcast::channel(BEHIND).0
}

impl Owner {
    /// How many jobs are queued or running.
    pub(super) fn live_count(&self) -> u32 {
        u32::try_from(self.live.len()).unwrap_or(u32::MAX)
    }

    /// Tells whoever watches that a job moved.
    pub(super) fn tell_change(&self, workspace: WorkspaceId, id: &JobId, state: Option<JobStatus>) {
        // Mostly nobody does, and then it costs nothing.
        if self.changes.receiver_count() > 0 {
            // The last of them may have gone in between.
            let live = self.live_count();
            let _ = self.changes.send(Change { workspace, id: id.clone(), state, live });
        }
    }
}
