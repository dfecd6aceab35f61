//! A memory budget for large frames and answers.
//!
//! Small ones are bounded by the number of connections and requests. A large one takes room here
//! before it is in memory, from one budget for all connections, and waits if there is none. A
//! client that then holds its room for long, because it does not send the rest of its frame or reads
//! nothing of its answer, is disconnected when others need the room, the longest holder first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use threadrunner_core::{ErrorCode, Failure};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Up to this many bytes are small. Each connection may have a few such frames without taking room.
pub(crate) const SMALL: usize = 64 << 10;
/// How long a client may hold room that others wait for.
const LONG: Duration = Duration::from_secs(3);
/// How often a waiter checks for clients to disconnect.
const LOOK: Duration = Duration::from_millis(500);
/// How long to wait for room.
const PATIENCE: Duration = Duration::from_secs(30);

/// A budget of bytes.
#[derive(Debug)]
pub(crate) struct Room {
    bytes: usize,
    free: Arc<Semaphore>,
    kept: Mutex<Kept>,
}

/// The pieces that wait for their clients, in the order in which the waits began.
#[derive(Debug, Default)]
struct Kept {
    next: u64,
    pieces: BTreeMap<u64, (Instant, CancellationToken)>,
}

/// A part of a budget, released when dropped.
#[derive(Debug)]
pub(crate) struct Piece {
    room: Arc<Room>,
    permit: OwnedSemaphorePermit,
    kept: Option<u64>,
    /// The permit for a connection's one large answer, released with this piece.
    alone: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// A budget of `bytes` bytes.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(bytes));
        Arc::new(Self { bytes, free, kept: Mutex::default() })
    }

    /// Waits for room for `bytes` bytes, or for the whole budget if that is less.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`] if there is no room within 30 seconds.
    pub(crate) async fn take(self: &Arc<Self>, bytes: usize) -> Result<Piece, Failure> {
        let permits = u32::try_from(bytes.min(self.bytes)).unwrap_or(u32::MAX);
        let taken = self.free.clone().acquire_many_owned(permits);
        let making_way = async {
            loop {
                sleep(LOOK).await;
                self.make_way();
            }
        };
        let taken = timeout(PATIENCE, async {
            tokio::select! {
                biased;
                taken = taken => taken.ok(),
                () = making_way => None,
            }
        });
        match taken.await {
            Ok(Some(permit)) => Ok(Piece { room: self.clone(), permit, kept: None, alone: None }),
            Ok(None) | Err(_) => Err(Failure::new(
                ErrorCode::Overloaded,
                format!("the daemon has no room for {bytes} bytes: other clients are using it"),
            )
            .hint("try again later")),
        }
    }

    /// Disconnects the client that has held its piece longest, if that is too long.
    fn make_way(&self) {
        let mut kept = self.kept();
        if let Some(oldest) = kept.pieces.first_entry()
            && oldest.get().0.elapsed() >= LONG
        {
            let (since, gone) = oldest.remove();
            let seconds = since.elapsed().as_secs();
            tracing::warn!(seconds, "disconnecting a client that holds memory without using it");
            gone.cancel();
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Piece {
    /// From now on the piece waits for the client, until [`Piece::is_ours`]. Called again, the wait
    /// begins anew: the client goes on.
    pub(crate) fn is_theirs(&mut self, gone: &CancellationToken) {
        let mut kept = self.room.kept();
        kept.next += 1;
        let key = kept.next;
        kept.pieces.insert(key, (Instant::now(), gone.clone()));
        drop(kept);
        self.is_ours();
        self.kept = Some(key);
    }

    /// The client has done its part, and the daemon works with the piece.
    pub(crate) fn is_ours(&mut self) {
        if let Some(key) = self.kept.take() {
            self.room.kept().pieces.remove(&key);
        }
    }

    /// Attaches the connection's permit for a large answer, to be released with the piece.
    pub(crate) fn in_turn(mut self, alone: Option<OwnedSemaphorePermit>) -> Self {
        self.alone = alone;
        self
    }

    /// Releases what exceeds `bytes` bytes.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let more = self.permit.num_permits().saturating_sub(bytes);
        drop(self.permit.split(more));
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.is_ours();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_piece_comes_back_when_it_is_dropped_and_what_is_too_much_at_once() {
        let room = Room::new(100);
        let mut piece = room.take(80).await.unwrap();
        piece.shrink(50);
        let other = room.take(50).await.unwrap();
        assert_eq!(room.free.available_permits(), 0);
        drop((piece, other));
        assert_eq!(room.free.available_permits(), 100);
        // More than the budget takes all of it.
        drop(room.take(1000).await.unwrap());
    }

    #[tokio::test]
    async fn who_keeps_a_piece_longest_makes_way() {
        let room = Room::new(100);
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let mut of_first = room.take(50).await.unwrap();
        of_first.is_theirs(&first);
        let mut of_second = room.take(50).await.unwrap();
        of_second.is_theirs(&second);
        // A connection that ends drops its piece.
        let ending = tokio::spawn(async move {
            first.cancelled().await;
            drop(of_first);
        });
        room.take(50).await.unwrap();
        ending.await.unwrap();
        assert!(!second.is_cancelled());
    }

    #[tokio::test]
    async fn who_goes_on_reading_keeps_its_piece() {
        let room = Room::new(100);
        let gone = CancellationToken::new();
        let mut piece = room.take(100).await.unwrap();
        let long_ago = || {
            let mut kept = room.kept();
            kept.pieces.values_mut().for_each(|(since, _)| *since = Instant::now() - LONG);
        };
        piece.is_theirs(&gone);
        long_ago();
        piece.is_theirs(&gone);
        room.make_way();
        assert!(!gone.is_cancelled());
        long_ago();
        room.make_way();
        assert!(gone.is_cancelled());
    }

    #[tokio::test]
    async fn what_the_daemon_works_on_is_taken_from_nobody() {
        let room = Room::new(100);
        let gone = CancellationToken::new();
        let mut piece = room.take(100).await.unwrap();
        piece.is_theirs(&gone);
        piece.is_ours();
        room.make_way();
        assert!(room.kept().pieces.is_empty() && !gone.is_cancelled());
    }
}
