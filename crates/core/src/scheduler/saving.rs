//! What a conversation has cached outlives the cache: it is saved, and restored for its next turn.
//!
//! A request that is a turn of a session says what its saved state holds. Where that is more of its
//! prompt than the cache has, the cells are restored instead of computed, at its admission, when
//! there is room for them. When a turn ends its session is noted as unsaved, and saved when the
//! loop finds time for it ([`Scheduler::save_next`]), or before its cells are taken for another.

use super::parking::usable;
use super::sequence::{Sequence, count};
use super::sharing::WORTH_WAITING;
use super::tree::{Hold, common};
use super::{Change, Scheduler, Step};
use crate::{Parameters, PrefixCache, SeqId, TokenId};

/// Where the states of sessions are kept. `()` keeps none.
pub trait SavedStates {
    /// The most bytes that one of them may have.
    fn most_bytes(&self) -> usize;

    /// The state that was saved of `session`, if that is still of these tokens.
    fn read(&mut self, session: &str, tokens: &[TokenId]) -> Option<Vec<u8>>;

    /// Takes the state of `session`, which has these tokens, in place of an earlier one.
    fn write(&mut self, session: &str, tokens: &[TokenId], state: &[u8]);
}

impl SavedStates for () {
    fn most_bytes(&self) -> usize {
        0
    }

    fn read(&mut self, _: &str, _: &[TokenId]) -> Option<Vec<u8>> {
        None
    }

    fn write(&mut self, _: &str, _: &[TokenId], _: &[u8]) {}
}

/// The conversation that a request is a turn of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub name: String,
    /// The tokens of its saved state; none where there is none.
    pub saved: Vec<TokenId>,
}

/// A turn has ended, and what its session has cached is not saved.
#[derive(Debug)]
pub(super) struct Unsaved {
    session: String,
    tokens: Vec<TokenId>,
    /// How many of them are in what was saved before.
    saved: usize,
}

/// A token is restored in less than this part of the time in which it is computed. All of a state is
/// restored, also where the prompt has less in common with it.
const WORTH_RESTORING: usize = 32;

/// What is noted at most. Who is noted longest without being saved is forgotten.
const MOST_UNSAVED: usize = 256;

impl Scheduler {
    /// Whether there is anything to save.
    pub fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// Whether a request of a session runs or waits.
    pub fn has_sessions(&self) -> bool {
        let waiting = || self.queue.iter().map(|waiting| &waiting.sequence);
        self.running.values().chain(waiting()).any(|sequence| sequence.session().is_some())
    }

    /// Saves the session that had a turn last, for when nothing else is to be done: a step to be
    /// carried out and applied like any other. `None` where there is nothing (left) to save.
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
                // Another goes on from here: what is the session's alone is in a sequence by
                // itself for as long as it takes to save it.
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

    /// A turn ends with this in `seq`. A cache that keeps nothing for others is saved at once.
    pub(super) fn note_unsaved(&mut self, seq: SeqId, sequence: &Sequence) {
        let Some(session) = sequence.session() else { return };
        // Where an answer ended among drafts, there are cells beyond its end.
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

    /// Whether all that `seq` has is what a session has, and not saved.
    pub(super) fn is_unsaved(&self, seq: SeqId) -> bool {
        let cached = self.tree.cached(seq);
        let mut alike = self.unsaved.iter().filter(|unsaved| unsaved.tokens.len() == cached);
        alike.any(|unsaved| unsaved.tokens == self.tree.tokens(seq))
    }

    /// The end of what `seq` has is about to be taken: saves it, if it is all that a session has.
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

    /// Lets a request that was just admitted begin with what was saved of its session, or what
    /// another left, if that is more than anybody has cached and there is room. A cache that cannot
    /// be cut takes all of it or nothing.
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
        // What is in memory goes first where it is as much.
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

    /// Takes cells of those who do not run, until so many are free or there are none.
    pub(super) fn make_room_for(&mut self, tokens: usize) {
        while self.cells_free() < tokens && (self.evict() || self.drop_paused()) {}
    }
}
