//! Parks the cells of ended requests: copies them to memory outside the cache, and back when a
//! prompt begins like one of them.
//!
//! llama.cpp's own attention reads all cells up to the last one in use, for each token, to see that
//! they belong to other sequences. With SmolLM2-135M on two processors, about 250 such cells cost a
//! hundredth of the time; a few cells behind many free ones cost as much as if all were used. So
//! with llama.cpp's attention, ended requests hold no cells while others run; otherwise they keep
//! them until others need them.
//!
//! [`Parked`] is the scheduler's index of what is parked; [`ParkedStates`] holds the bytes.

use std::collections::HashMap;

use super::sequence::count;
use super::tree::{Hold, common};
use super::{Change, Scheduler};
use crate::{ModelInfo, PrefixCache, SeqId, TokenId};

/// Fewer tokens than this are recomputed instead, which takes one forward pass.
const WORTH_PARKING: usize = 32;

/// Parking copies all cells of a sequence, even those that others hold too, so a sequence must be
/// the only holder of at least one in this many of them. Copying a token takes less than a
/// hundredth of the time of computing it, but few are ever needed again.
const OF_ITS_OWN: usize = 8;

/// Parked states of sequences: what the backend saved, by the scheduler's number.
#[derive(Debug, Default)]
pub struct ParkedStates(HashMap<u64, Vec<u8>>);

impl ParkedStates {
    pub(super) fn put(&mut self, number: u64, state: Vec<u8>) {
        self.0.insert(number, state);
    }

    pub(super) fn get(&self, number: u64) -> Option<&[u8]> {
        self.0.get(&number).map(Vec::as_slice)
    }

    pub(super) fn forget(&mut self, number: u64) {
        self.0.remove(&number);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The scheduler's index of parked states.
#[derive(Debug, Default)]
pub(super) struct Parked {
    /// The parked texts, most recently used last.
    texts: Vec<Text>,
    /// The maximum number of tokens in all texts together.
    most: usize,
    last: u64,
}

#[derive(Debug)]
struct Text {
    number: u64,
    tokens: Vec<TokenId>,
}

/// A parked state that a prompt can begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) number: u64,
    /// The number of tokens in the state.
    pub(super) tokens: usize,
    /// How many of them the prompt begins with.
    pub(super) keep: usize,
}

impl Parked {
    pub(super) fn new(info: &ModelInfo) -> Self {
        Self { most: info.n_parked as usize, ..Self::default() }
    }

    /// Adds a text and returns its new number; appends the numbers of texts evicted for it to
    /// `gone`. `None` if it is too long or a prefix of another.
    fn put(&mut self, tokens: Vec<TokenId>, gone: &mut Vec<u64>) -> Option<u64> {
        let number = self.last + 1;
        self.insert(Text { number, tokens }, gone).then(|| {
            self.last = number;
            number
        })
    }

    /// The same for a text that has a number; returns whether it was added.
    fn insert(&mut self, text: Text, gone: &mut Vec<u64>) -> bool {
        let tokens = &text.tokens;
        if tokens.len() > self.most || self.texts.iter().any(|it| it.tokens.starts_with(tokens)) {
            return false;
        }
        let mut left = self.most - tokens.len();
        // Newest first: they stay while there is room.
        for place in (0..self.texts.len()).rev() {
            let other = &self.texts[place].tokens;
            match left.checked_sub(other.len()).filter(|_| !tokens.starts_with(other)) {
                Some(rest) => left = rest,
                None => gone.push(self.texts.remove(place).number),
            }
        }
        self.texts.push(text);
        true
    }

    /// The state that covers most of a prompt.
    pub(super) fn longest(&self, prompt: &[TokenId], rule: PrefixCache) -> Option<Found> {
        let found = self.texts.iter().map(|text| Found {
            number: text.number,
            tokens: text.tokens.len(),
            keep: usable(&text.tokens, prompt, rule),
        });
        found.filter(|found| found.keep > 0).max_by_key(|found| found.keep)
    }

    /// Removes a text.
    fn take(&mut self, number: u64) -> Option<Text> {
        let place = self.texts.iter().position(|text| text.number == number)?;
        Some(self.texts.remove(place))
    }

    pub(super) fn forget(&mut self, number: u64) {
        self.texts.retain(|text| text.number != number);
    }

    pub(super) fn clear(&mut self) {
        self.texts.clear();
    }

    #[cfg(test)]
    pub(super) fn texts(&self) -> Vec<Vec<TokenId>> {
        self.texts.iter().map(|text| text.tokens.clone()).collect()
    }
}

/// How many tokens of a state a prompt can reuse. A cache that cannot be cut reuses all or none.
pub(super) fn usable(state: &[TokenId], prompt: &[TokenId], rule: PrefixCache) -> usize {
    let same = common(state, prompt);
    if rule == PrefixCache::Any || same == state.len() { same } else { 0 }
}

impl Scheduler {
    /// Frees the cells of ended requests while others run, if forward passes read all cells and
    /// parking is enabled. Cells of unsaved sessions stay.
    pub(super) fn clear_stale(&mut self) {
        if self.own_cells_only || self.running.is_empty() || self.parked.most == 0 {
            return;
        }
        while self.tree.cells_for(Hold::Kept) > 0 {
            let saved = |seq| !self.is_unsaved(seq);
            let Some((seq, start)) = self.tree.least_recent(saved) else { return };
            self.evict_end(seq, start);
        }
    }

    /// Parks `seq`, whose cells from `start` on are about to be freed, if it is worth it.
    pub(super) fn park(&mut self, seq: SeqId, start: usize) {
        let cached = self.tree.cached(seq);
        let own = cached.saturating_sub(start);
        if own < WORTH_PARKING.max(cached / OF_ITS_OWN) || self.parked.most == 0 {
            return;
        }
        let mut gone = Vec::new();
        let number = self.parked.put(self.tree.tokens(seq), &mut gone);
        self.changes.extend(gone.into_iter().map(|number| Change::Discard { number }));
        self.changes.extend(number.map(|number| Change::Park { seq, number }));
    }

    /// Makes `seq` begin with a parked state. A state that is now in the cache as a whole is no
    /// longer parked.
    pub(super) fn unpark(&mut self, seq: SeqId, found: Found) {
        // Taken out first, so that parking others to make room cannot evict it.
        let text = self.parked.take(found.number);
        self.make_room_for(found.tokens);
        let Found { number, tokens, keep } = found;
        self.changes.push(Change::Unpark { seq, number, tokens: count(tokens), keep: count(keep) });
        let mut gone = Vec::new();
        let stays = text.filter(|_| keep < tokens);
        if !stays.is_some_and(|text| self.parked.insert(text, &mut gone)) {
            gone.push(number);
        }
        self.changes.extend(gone.into_iter().map(|number| Change::Discard { number }));
    }
}
