//! Broadcasts the changes of all jobs to the clients that watch them.

use tokio::sync::broadcast;

use super::hub::Change;

/// How many changes a watcher may lag behind. Beyond that it misses the oldest and is told so.
const BEHIND: usize = 4096;

/// The owner's end of the broadcast channel.
pub(super) type Changes = broadcast::Sender<Change>;

/// Creates the broadcast channel.
pub(super) fn changes() -> Changes {
    broadcast::channel(BEHIND).0
}
