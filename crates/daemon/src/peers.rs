//! The open connections: how many there may be, and which one is closed for another.
//!
//! No client can lock others out by holding connections: at the limit, the connection that has been
//! idle longest is closed. If none is idle, a reserve admits a few more for requests that look
//! after the daemon: querying its state, stopping it, canceling a job.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use threadrunner_core::protocol::Op;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::room::Room;

/// The maximum number of connections, if the system lets the daemon open enough files.
pub(crate) const CONNECTIONS: usize = 1024;
/// Connections beyond the limit, for looking after the daemon.
pub(crate) const RESERVE: usize = 16;
/// A connection opened or used this recently is not idle.
const FRESH: Duration = Duration::from_secs(1);
/// The maximum number of requests in progress on all connections together.
const REQUESTS: usize = 16 << 10;
/// Bytes of large frames on their way in, and of large answers on their way out.
const BYTES_IN: usize = 192 << 20;
const BYTES_OUT: usize = 384 << 20;

/// All open connections.
#[derive(Debug)]
pub(crate) struct Peers {
    most: usize,
    open: Mutex<Open>,
    requests: Arc<Semaphore>,
    pub(crate) incoming: Arc<Room>,
    pub(crate) outgoing: Arc<Room>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    peers: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// The number of requests in progress.
    busy: usize,
    /// Since when there has been none.
    idle_since: Instant,
    gone: CancellationToken,
}

/// One open connection. Dropping it removes it from [`Peers`].
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) all: Arc<Peers>,
    key: u64,
    pub(crate) gone: CancellationToken,
    /// Whether it is one of the reserve.
    pub(crate) is_reserved: bool,
}

/// A request in progress. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct UnderWay {
    peer: Arc<Peer>,
    _one_of_all: Option<OwnedSemaphorePermit>,
}

impl Peers {
    /// Returns an empty set of at most `most` connections, not counting the reserve.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            open: Mutex::default(),
            requests: Arc::new(Semaphore::new(REQUESTS)),
            incoming: Room::new(BYTES_IN),
            outgoing: Room::new(BYTES_OUT),
        })
    }

    /// Admits a connection. Returns `None` if there is no place, not even by closing an idle one.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Arc<Peer>> {
        let mut open = self.open();
        if open.peers.len() >= self.most {
            open.make_way(FRESH);
        }
        if open.peers.len() >= self.most + RESERVE {
            // Always keep a place for looking after the daemon.
            open.make_way(Duration::ZERO);
        }
        if open.peers.len() >= self.most + RESERVE {
            return None;
        }
        let is_reserved = open.peers.len() >= self.most;
        open.next += 1;
        let (key, gone) = (open.next, CancellationToken::new());
        let entry = Entry { busy: 0, idle_since: Instant::now(), gone: gone.clone() };
        open.peers.insert(key, entry);
        drop(open);
        Some(Arc::new(Peer { all: self.clone(), key, gone, is_reserved }))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Closes the connection that has been idle longest, if for at least `long`.
    fn make_way(&mut self, long: Duration) {
        let idle = self.peers.iter();
        let idle = idle.filter(|(_, entry)| entry.busy == 0 && entry.idle_for() >= long);
        let Some((&key, _)) = idle.max_by_key(|(_, entry)| entry.idle_for()) else { return };
        if let Some(entry) = self.peers.remove(&key) {
            tracing::debug!("closing the connection that has been idle longest");
            entry.gone.cancel();
        }
    }
}

impl Entry {
    fn idle_for(&self) -> Duration {
        if self.busy > 0 { Duration::ZERO } else { self.idle_since.elapsed() }
    }
}

impl Peer {
    /// Begins a request. Returns `None` if all connections together have too many.
    pub(crate) fn begin(self: &Arc<Self>, op: &Op) -> Option<UnderWay> {
        let one_of_all = self.all.requests.clone().try_acquire_owned().ok();
        if one_of_all.is_none() && !op.treatment().control {
            return None;
        }
        if let Some(entry) = self.all.open().peers.get_mut(&self.key) {
            entry.busy += 1;
        }
        Some(UnderWay { peer: self.clone(), _one_of_all: one_of_all })
    }

    /// How long it has been without a request.
    pub(crate) fn idle_for(&self) -> Duration {
        // One that is being closed has no entry.
        self.all.open().peers.get(&self.key).map_or(Duration::ZERO, Entry::idle_for)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.all.open().peers.remove(&self.key);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(entry) = self.peer.all.open().peers.get_mut(&self.peer.key) {
            entry.busy -= 1;
            entry.idle_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use threadrunner_core::protocol::{StopQuery, WatchQuery};

    fn idle_for_long(peers: &Peers, peer: &Peer, seconds: u64) {
        let long_ago = Instant::now() - Duration::from_secs(seconds);
        peers.open().peers.get_mut(&peer.key).unwrap().idle_since = long_ago;
    }

    #[test]
    fn the_one_that_is_idle_longest_makes_way() {
        let peers = Peers::new(3);
        let [first, second, third] = [(); 3].map(|()| peers.admit().unwrap());
        let _busy = first.begin(&Op::Watch(WatchQuery::default())).unwrap();
        idle_for_long(&peers, &first, 9);
        idle_for_long(&peers, &second, 5);
        idle_for_long(&peers, &third, 7);
        let fourth = peers.admit().unwrap();
        assert!(!fourth.is_reserved && third.gone.is_cancelled());
        assert!(!first.gone.is_cancelled() && !second.gone.is_cancelled());
    }

    #[test]
    fn where_none_is_idle_a_few_are_served_for_what_looks_after_the_daemon() {
        let peers = Peers::new(2);
        let busy = || {
            let peer = peers.admit()?;
            let request = peer.begin(&Op::Ps).unwrap();
            Some((peer, request))
        };
        let mut open: Vec<_> = std::iter::from_fn(busy).collect();
        assert_eq!(open.len(), 2 + RESERVE);
        assert!(open.iter().enumerate().all(|(n, (peer, _))| peer.is_reserved == (n >= 2)));
        // One of the reserve that has its answer is closed at once.
        let (ended, request) = open.pop().unwrap();
        drop(request);
        assert!(peers.admit().unwrap().is_reserved && ended.gone.is_cancelled());
        drop((open, ended));
        assert!(!peers.admit().unwrap().is_reserved);
    }

    #[test]
    fn a_connection_is_idle_again_when_its_last_request_has_ended() {
        let peers = Peers::new(1);
        let peer = peers.admit().unwrap();
        idle_for_long(&peers, &peer, 9);
        let two = [Op::Ps, Op::Status].map(|op| peer.begin(&op).unwrap());
        assert_eq!(peer.idle_for(), Duration::ZERO);
        drop(two);
        assert!(peer.idle_for() < Duration::from_secs(9));
        assert_eq!(peers.open().peers[&peer.key].busy, 0);
    }

    #[test]
    fn what_looks_after_the_daemon_is_heard_also_among_too_many_requests() {
        let peers = Peers::new(1);
        let peer = peers.admit().unwrap();
        let all = peers.requests.clone().try_acquire_many_owned(u32::try_from(REQUESTS).unwrap());
        assert!(peer.begin(&Op::Watch(WatchQuery::default())).is_none());
        peer.begin(&Op::Stop(StopQuery { now: true })).unwrap();
        drop(all.unwrap());
        peer.begin(&Op::Watch(WatchQuery::default())).unwrap();
    }
}
