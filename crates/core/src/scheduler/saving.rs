//! Saves a session's cached cells and restores them for its next turn, so that they outlive the
//! cache.
//!
//! A request that is a turn of a session says which tokens the session's saved state holds
//! ([`Session`]). If the state covers more of its prompt than the cache does, and there is room,
//! the cells are restored at admission instead of computed. When a turn ends, its session is noted
//! as unsaved. It is saved when the loop has time for it ([`Scheduler::save_next`]), or before its
//! cells are taken for another request.

use super::parking::usable;
use super::sequence::{Sequence, count};
use super::sharing::WORTH_WAITING;
use super::tree::{Hold, common};
use super::{Change, Scheduler, Step};
use crate::{CacheName, Parameters, PrefixCache, SeqId, TokenId};

/// Storage for the states of sessions. `()` stores none.
pub trait SavedStates {
    /// The maximum size of a state, in bytes.
    fn most_bytes(&self) -> usize;

    /// The saved state of `session`, if it still holds exactly these tokens.
    fn read(&mut self, session: &CacheName, tokens: &[TokenId]) -> Option<Vec<u8>>;

    /// Stores the state of `session`, which holds these tokens, and replaces an earlier one.
    fn write(&mut self, session: &CacheName, tokens: &[TokenId], state: &[u8]);
}

impl SavedStates for () {
    fn most_bytes(&self) -> usize {
        0
    }

    fn read(&mut self, _: &CacheName, _: &[TokenId]) -> Option<Vec<u8>> {
        None
    }

    fn write(&mut self, _: &CacheName, _: &[TokenId], _: &[u8]) {}
}

/// The conversation that a request is a turn of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub name: CacheName,
    /// The tokens of its saved state; empty if there is none.
    pub saved: Vec<TokenId>,
}

/// A session whose turn has ended and whose cells are not saved yet.
#[derive(Debug)]
pub(super) struct Unsaved {
    session: CacheName,
    tokens: Vec<TokenId>,
    /// How many of the tokens were saved before.
    saved: usize,
}

/// Restoring a token takes less than 1/32 of the time of computing it. A state is always restored as
/// a whole, so the prompt must need at least this fraction of it.
const WORTH_RESTORING: usize = 32;

/// The maximum number of unsaved sessions noted; beyond it, the oldest is dropped.
const MOST_UNSAVED: usize = 256;

impl Scheduler {
    /// Whether any session is unsaved.
    pub fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// Whether a request of a session is running or waiting.
    pub fn has_sessions(&self) -> bool {
        let waiting = || self.queue.iter().map(|waiting| &waiting.sequence);
        self.running.values().chain(waiting()).any(|sequence| sequence.session().is_some())
    }

    /// Saves the session whose turn ended last; for use when there is nothing else to do. Carry out
    /// and apply the step like any other. `None` if there is nothing left to save.
    pub fn save_next(&mut self) -> Option<Step> {
        while let Some(unsaved) = self.unsaved.pop() {
            let Some((seq, n)) = self.tree.longest(&unsaved.tokens, self.prefix_cache) else {
                continue;
            };
            if n < unsaved.saved + WORTH_WAITING {
                continue;
            }
            let Unsaved { session, mut tokens, .. } = unsaved;
            tokens.truncate(n);
            if self.tree.cached(seq) == n {
                self.changes.push(Change::Save { seq, session, tokens });
            } else {
                // Another request continues from here. The session's tokens are copied to a
                // sequence of their own, just while they are saved.
                let Some(&alone) = self.free.first() else { continue };
                let (params, prompt) = (Parameters::DEFAULT, Vec::new());
                self.changes.push(Change::Open { seq: alone, params, prompt });
                self.changes.push(Change::Copy { from: seq, to: alone, tokens: count(n) });
                self.changes.push(Change::Save { seq: alone, session, tokens });
                self.changes.push(Change::Close { seq: alone });
            }
            let changes = std::mem::take(&mut self.changes);
            return Some(Step { changes, ..Step::default() });
        }
        None
    }

    /// Notes that a session's turn ended in `seq`. If the cache keeps nothing for later requests,
    /// saves it at once.
    pub(super) fn note_unsaved(&mut self, seq: SeqId, sequence: &Sequence) {
        let Some(session) = sequence.session() else { return };
        // If the answer ended among accepted drafts, there are cells beyond its end.
        let known = sequence.tokens();
        let tokens = &known[..sequence.cached().min(known.len())];
        self.unsaved.retain(|unsaved| unsaved.session != session.name);
        let saved = common(&session.saved, tokens);
        if tokens.len() < saved + WORTH_WAITING {
            return;
        }
        let (name, tokens) = (session.name.clone(), tokens.to_vec());
        if self.prefix_cache == PrefixCache::None {
            let tokens = self.tree.tokens(seq);
            self.changes.push(Change::Save { seq, session: name, tokens });
            return;
        }
        if self.unsaved.len() >= MOST_UNSAVED {
            self.unsaved.remove(0);
        }
        self.unsaved.push(Unsaved { session: name, tokens, saved });
    }

    /// Whether the cells of `seq` are exactly those of an unsaved session.
    pub(super) fn is_unsaved(&self, seq: SeqId) -> bool {
        let cached = self.tree.cached(seq);
        let mut alike = self.unsaved.iter().filter(|unsaved| unsaved.tokens.len() == cached);
        alike.any(|unsaved| unsaved.tokens == self.tree.tokens(seq))
    }

    /// Saves `seq`, whose last cells are about to be freed, if it is exactly an unsaved session.
    /// Returns whether it was.
    pub(super) fn save_before_loss(&mut self, seq: SeqId) -> bool {
        if self.unsaved.is_empty() {
            return false;
        }
        let (tokens, before) = (self.tree.tokens(seq), self.unsaved.len());
        while let Some(place) = self.unsaved.iter().position(|unsaved| unsaved.tokens == tokens) {
            let Unsaved { session, tokens, .. } = self.unsaved.remove(place);
            self.changes.push(Change::Save { seq, session, tokens });
        }
        self.unsaved.len() < before
    }

    /// Makes a newly admitted request begin with its session's saved state or with a parked state,
    /// if that has more of its prompt than the cache and there is room. A cache that cannot be cut
    /// takes all of a state or nothing.
    pub(super) fn restore_saved(&mut self, seq: SeqId) {
        let Some(sequence) = self.running.get(&seq).filter(|it| it.cached() == 0) else { return };
        let wanted = sequence.sharable();
        let session = sequence.session().filter(|session| !session.saved.is_empty());
        let session =
            session.map(|session| (session, usable(&session.saved, wanted, self.prefix_cache)));
        let parked = self.parked.longest(wanted, self.prefix_cache);
        if session.is_none() && parked.is_none() {
            return;
        }
        let there = self.tree.longest(wanted, self.prefix_cache).map_or(0, |(_, n)| n);
        let room = self.n_ctx.saturating_sub(self.tree.cells_for(Hold::Running));
        let worth_it = |keep: usize, tokens: usize| {
            let worth = WORTH_WAITING.max(tokens / WORTH_RESTORING);
            keep >= there + worth && tokens <= room
        };
        let session = session.filter(|(session, keep)| worth_it(*keep, session.saved.len()));
        let parked = parked.filter(|found| worth_it(found.keep, found.tokens));
        // Memory goes first if it has as much.
        let in_session = session.map_or(0, |(_, keep)| keep);
        if let Some(found) = parked.filter(|found| found.keep >= in_session) {
            let prefix = wanted[..found.keep].to_vec();
            self.unpark(seq, found);
            self.tree.append(seq, &prefix);
            if let Some(sequence) = self.running.get_mut(&seq) {
                sequence.joined(found.keep);
            }
        } else if let Some((Session { name, saved }, keep)) = session {
            let (session, tokens) = (name.clone(), saved.clone());
            self.make_room_for(tokens.len());
            self.tree.append(seq, &tokens[..keep]);
            if let Some(sequence) = self.running.get_mut(&seq) {
                sequence.restored(keep);
            }
            self.changes.push(Change::Restore { seq, session, tokens, keep: count(keep) });
        }
    }

    /// Frees cells of requests that are not running, until `tokens` cells are free or there are
    /// none.
    pub(super) fn make_room_for(&mut self, tokens: usize) {
        while self.cells_free() < tokens && (self.evict() || self.drop_paused()) {}
    }
}
