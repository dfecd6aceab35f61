//! The open connections: how many there may be, and which one is closed for another.
//!
//! No client can lock others out by holding connections: at the limit, the connection that has been
//! idle longest is closed, or else the one whose client has read nothing for longest. If there is no
//! such one, a reserve admits a few more for requests that look after the daemon: querying its
//! state, stopping it, canceling a job. A connection of the reserve that sends another request gets a
//! place if one has become idle by then.

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
/// A client that has not read for this long, while bytes wait for it, makes way. Chosen: a client
/// that computes between two reads takes less.
const STUCK: Duration = Duration::from_secs(5);
/// The maximum number of requests in progress on all connections together, not counting the first
/// one of each connection: one client's requests must not keep another from having any.
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
    /// Since when bytes wait for the client without it reading any.
    unread_since: Option<Instant>,
    /// Whether it is one of the reserve.
    is_reserved: bool,
    gone: CancellationToken,
}

/// One open connection. Dropping it removes it from [`Peers`].
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) all: Arc<Peers>,
    key: u64,
    pub(crate) gone: CancellationToken,
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
        while open.places() >= self.most && open.make_way(FRESH, None) {}
        if open.peers.len() >= self.most + RESERVE {
            // Always keep a place for looking after the daemon.
            open.make_way(Duration::ZERO, None);
        }
        if open.peers.len() >= self.most + RESERVE {
            return None;
        }
        let is_reserved = open.places() >= self.most;
        open.next += 1;
        let (key, gone) = (open.next, CancellationToken::new());
        let entry = Entry {
            busy: 0,
            idle_since: Instant::now(),
            unread_since: None,
            is_reserved,
            gone: gone.clone(),
        };
        open.peers.insert(key, entry);
        drop(open);
        Some(Arc::new(Peer { all: self.clone(), key, gone }))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// The number of connections that are not of the reserve.
    fn places(&self) -> usize {
        self.peers.values().filter(|entry| !entry.is_reserved).count()
    }

    /// Closes the connection that has been idle longest, if for at least `long`, or else the one
    /// whose client is stuck. Never closes `own`. Returns whether there was one.
    fn make_way(&mut self, long: Duration, own: Option<u64>) -> bool {
        let idle = self.peers.iter().filter(|(key, _)| own != Some(**key));
        let idle = idle.filter(|(_, entry)| entry.is_idle() && entry.idle_for() >= long);
        let idle = idle.max_by_key(|(_, entry)| entry.idle_for());
        match idle.map(|(&key, _)| key) {
            Some(key) => {
                tracing::debug!("closing the connection that has been idle longest");
                self.close(key);
                true
            }
            None => self.make_stuck_way(own),
        }
    }

    /// Closes the connection whose client has read nothing for longest, if that is too long. Never
    /// closes `own`.
    fn make_stuck_way(&mut self, own: Option<u64>) -> bool {
        let others = self.peers.iter().filter(|(key, _)| own != Some(**key));
        let stuck = others.filter(|(_, entry)| entry.stuck_for() >= STUCK);
        let stuck = stuck.max_by_key(|(_, entry)| entry.stuck_for());
        let Some(key) = stuck.map(|(&key, _)| key) else { return false };
        tracing::warn!("closing a connection whose client does not read, for another one");
        self.close(key);
        true
    }

    fn close(&mut self, key: u64) {
        if let Some(entry) = self.peers.remove(&key) {
            entry.gone.cancel();
        }
    }
}

impl Entry {
    fn is_idle(&self) -> bool {
        self.busy == 0 && self.unread_since.is_none()
    }

    fn stuck_for(&self) -> Duration {
        self.unread_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn idle_for(&self) -> Duration {
        if self.busy > 0 { Duration::ZERO } else { self.idle_since.elapsed() }
    }
}

impl Peer {
    /// Whether any request is served, and not only those for looking after the daemon. One of the
    /// reserve gets a place, if another connection can be closed for it.
    pub(crate) fn has_place(&self) -> bool {
        let mut open = self.all.open();
        if !open.peers.get(&self.key).is_some_and(|entry| entry.is_reserved) {
            return true;
        }
        // Ones that were just opened last: they are about to send their requests.
        while open.places() >= self.all.most && open.make_way(Duration::ZERO, Some(self.key)) {}
        let found = open.places() < self.all.most;
        if let Some(entry) = open.peers.get_mut(&self.key) {
            entry.is_reserved = !found;
        }
        found
    }

    /// Begins a request. Returns `None` if all connections together have too many, and this one
    /// has one, or if this one was closed.
    pub(crate) fn begin(self: &Arc<Self>, op: &Op) -> Option<UnderWay> {
        let one_of_all = self.all.requests.clone().try_acquire_owned().ok();
        let mut open = self.all.open();
        if one_of_all.is_none() {
            // Its requests end soon after.
            open.make_stuck_way(Some(self.key));
        }
        // A connection that was closed for another one begins nothing: nobody would learn of it.
        let entry = open.peers.get_mut(&self.key)?;
        if one_of_all.is_none() && entry.busy > 0 && !op.treatment().control {
            return None;
        }
        entry.busy += 1;
        Some(UnderWay { peer: self.clone(), _one_of_all: one_of_all })
    }

    /// Notes that the client has read some, or that bytes begin to wait for it; `left` says whether
    /// more wait.
    pub(crate) fn note_read(&self, left: bool) {
        if let Some(entry) = self.all.open().peers.get_mut(&self.key) {
            let now = Instant::now();
            entry.unread_since = left.then_some(now);
            entry.idle_since = entry.idle_since.max(now);
        }
    }

    /// Notes that the client has sent some of a request, which is no idleness.
    pub(crate) fn note_sent(&self) {
        if let Some(entry) = self.all.open().peers.get_mut(&self.key) {
            entry.idle_since = entry.idle_since.max(Instant::now());
        }
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
        assert!(!is_reserved(&fourth) && third.gone.is_cancelled());
        assert!(!first.gone.is_cancelled() && !second.gone.is_cancelled());
    }

    fn is_reserved(peer: &Peer) -> bool {
        peer.all.open().peers[&peer.key].is_reserved
    }

    fn stuck_for_long(peers: &Peers, peer: &Peer, seconds: u64) {
        let long_ago = Instant::now() - Duration::from_secs(seconds);
        peers.open().peers.get_mut(&peer.key).unwrap().unread_since = Some(long_ago);
    }

    #[test]
    fn however_many_are_idle_the_next_ones_are_served() {
        let peers = Peers::new(4);
        let idle: Vec<_> = std::iter::from_fn(|| peers.admit()).take(4 + RESERVE).collect();
        idle.iter().for_each(|peer| idle_for_long(&peers, peer, 5));
        let next: Vec<_> = std::iter::from_fn(|| peers.admit()).take(4).collect();
        assert_eq!(next.iter().filter(|peer| is_reserved(peer)).count(), 0);
    }

    #[test]
    fn one_that_was_just_opened_makes_way_for_a_request_if_no_other_does() {
        let peers = Peers::new(4);
        let young: Vec<_> = std::iter::from_fn(|| peers.admit()).take(4 + RESERVE).collect();
        let last = young.last().unwrap();
        assert!(is_reserved(last) && last.has_place() && !last.gone.is_cancelled());
        assert!(young[0].gone.is_cancelled() && !young[1].gone.is_cancelled());
    }

    #[test]
    fn a_client_that_does_not_read_makes_way_and_one_that_reads_does_not() {
        let peers = Peers::new(2);
        let [stuck, slow] = [(); 2].map(|()| peers.admit().unwrap());
        let _requests = [&stuck, &slow].map(|peer| peer.begin(&Op::Ps).unwrap());
        stuck_for_long(&peers, &stuck, 9);
        stuck_for_long(&peers, &slow, 9);
        slow.note_read(true);
        let next = peers.admit().unwrap();
        assert!(!is_reserved(&next) && stuck.gone.is_cancelled() && !slow.gone.is_cancelled());
        // It has its answers, and still reads them.
        let _request = next.begin(&Op::Ps).unwrap();
        drop(_requests);
        idle_for_long(&peers, &slow, 9);
        assert!(is_reserved(&peers.admit().unwrap()) && !slow.gone.is_cancelled());
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
        assert!(open.iter().enumerate().all(|(n, (peer, _))| is_reserved(peer) == (n >= 2)));
        // One of the reserve that has its answer is closed at once.
        let (ended, request) = open.pop().unwrap();
        drop(request);
        assert!(is_reserved(&peers.admit().unwrap()) && ended.gone.is_cancelled());
        drop((open, ended));
        assert!(!is_reserved(&peers.admit().unwrap()));
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
        // Its first request takes nothing from others.
        let _first = peer.begin(&Op::Watch(WatchQuery::default())).unwrap();
        assert!(peer.begin(&Op::Watch(WatchQuery::default())).is_none());
        peer.begin(&Op::Stop(StopQuery { now: true })).unwrap();
        drop(all.unwrap());
        peer.begin(&Op::Watch(WatchQuery::default())).unwrap();
    }
}
