//! What ended requests leave behind is put where it costs nothing: their cells are copied to memory
//! beside the cache, and back when a prompt begins like one of them.
//!
//! llama.cpp's own attention looks at all cells up to the last in use, for each token, to see that
//! they are not that token's. With SmolLM2-135M on two processors some 250 cells cost it a hundredth
//! of its time, and a few that lie behind many free ones as much as all of these. So where it
//! computes, ended requests have no cells while others run; elsewhere they keep theirs until others
//! need them.

use std::collections::HashMap;

use super::sequence::count;
use super::tree::{Hold, common};
use super::{Change, Scheduler};
use crate::{ModelInfo, PrefixCache, SeqId, TokenId};

/// Fewer tokens are computed again when they are asked for: it takes one forward pass.
const WORTH_PARKING: usize = 32;

/// All cells of a sequence are copied, also those that others have too; not where only this part is
/// its own. A token is copied in less than a hundredth of the time in which it is computed, but few
/// are ever asked for again.
const OF_ITS_OWN: usize = 8;

/// States of sequences that are parked: what the backend saved, by the scheduler's number.
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

/// What is parked, as far as the scheduler knows it.
#[derive(Debug, Default)]
pub(super) struct Parked {
    /// Who was of use last is last.
    texts: Vec<Text>,
    /// The most tokens of all together.
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
    /// Tokens that it has.
    pub(super) tokens: usize,
    /// How many of them the prompt begins with.
    pub(super) keep: usize,
}

impl Parked {
    pub(super) fn new(info: &ModelInfo) -> Self {
        Self { most: info.n_parked as usize, ..Self::default() }
    }

    /// Takes a text in, under the number that is returned; those that have to go for it are
    /// `gone`. `None` where it is too long, or part of another.
    fn put(&mut self, tokens: Vec<TokenId>, gone: &mut Vec<u64>) -> Option<u64> {
        let number = self.last + 1;
        self.insert(Text { number, tokens }, gone).then(|| {
            self.last = number;
            number
        })
    }

    /// The same under a number that it has; returns whether it was taken in.
    fn insert(&mut self, text: Text, gone: &mut Vec<u64>) -> bool {
        let tokens = &text.tokens;
        if tokens.len() > self.most || self.texts.iter().any(|it| it.tokens.starts_with(tokens)) {
            return false;
        }
        let mut left = self.most - tokens.len();
        // The newest first: they stay while there is room.
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

    /// Which of them a prompt has most of.
    pub(super) fn longest(&self, prompt: &[TokenId], rule: PrefixCache) -> Option<Found> {
        let found = self.texts.iter().map(|text| Found {
            number: text.number,
            tokens: text.tokens.len(),
            keep: usable(&text.tokens, prompt, rule),
        });
        found.filter(|found| found.keep > 0).max_by_key(|found| found.keep)
    }

    /// Takes one out.
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

/// How many tokens of a state a prompt can begin with: of a cache that cannot be cut all or none.
pub(super) fn usable(state: &[TokenId], prompt: &[TokenId], rule: PrefixCache) -> usize {
    let same = common(state, prompt);
    if rule == PrefixCache::Any || same == state.len() { same } else { 0 }
}

impl Scheduler {
    /// Takes the cells of ended requests while others run, where forward passes look at all cells and
    /// they can be parked. Sessions that are
    /// not saved yet stay.
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

    /// The cells of `seq` from `start` on are about to be taken: parks them, if they are worth it.
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

    /// Lets `seq` begin with it. What is in the cache again as a whole is parked no longer.
    pub(super) fn unpark(&mut self, seq: SeqId, found: Found) {
        // Out of the way of those that are parked to make room for it.
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
