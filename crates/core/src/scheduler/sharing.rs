//! Shares prefixes: requests that begin alike compute their common tokens once.

use std::cmp::Reverse;

use super::sequence::{Leader, Sequence, count};
use super::tree::{Hold, common};
use super::{Change, Scheduler};
use crate::{Parameters, PrefixCache, SeqId};

/// How many tokens a leader must be about to compute to be worth waiting for: a forward pass takes
/// about as long as this many prompt tokens in a pass that runs anyway.
pub(super) const WORTH_WAITING: usize = 16;

impl Scheduler {
    /// Makes every prompt that is being read begin with what is cached, or wait for an earlier one
    /// that is about to compute more of it. The first one never waits, so every leader makes
    /// progress.
    pub(super) fn share_prefixes(&mut self) {
        let mut order: Vec<_> = self
            .running
            .iter()
            .filter(|(_, sequence)| !sequence.decodes())
            .map(|(seq, sequence)| (Reverse(sequence.standing), sequence.arrival, *seq))
            .collect();
        order.sort_unstable();
        for (_, _, seq) in order {
            self.share_prefix(seq);
        }
    }

    /// Shares the prefix of one request.
    pub(super) fn share_prefix(&mut self, seq: SeqId) {
        let Some(sequence) = self.running.get(&seq) else { return };
        let tokens = sequence.sharable();
        if self.prefix_cache == PrefixCache::None || tokens.len() <= sequence.cached() {
            return;
        }
        let cached = sequence.cached();
        let there = self.tree.longest(tokens, self.prefix_cache).filter(|(_, n)| *n > cached);
        let at_hand = there.map_or(cached, |(_, n)| n);
        let coming = self.running.values().filter(|other| precedes(other, sequence));
        let coming = coming.filter_map(|leader| leads(leader, sequence, at_hand)).max();
        let common = match self.prefix_cache {
            PrefixCache::Window(_) => self.tree.longest(tokens, PrefixCache::Any),
            PrefixCache::None | PrefixCache::Any => None,
        };
        let parting = common.map(|(_, n)| n).filter(|n| *n >= at_hand + WORTH_WAITING);
        let Some(sequence) = self.running.get_mut(&seq) else { return };
        sequence.follow(coming);
        if coming.is_some() {
            return;
        }
        let parted = sequence.part_at(parting);
        if let Some((from, n)) = there {
            sequence.joined(n);
            self.tree.truncate(seq, 0);
            self.copy(from, seq, n);
        }
        // Further requests that begin alike will probably diverge here too.
        let led =
            there.is_some_and(|(from, n)| n >= WORTH_WAITING && self.running.contains_key(&from));
        if parted || (led && matches!(self.prefix_cache, PrefixCache::Window(_))) {
            self.keep_copy(seq);
        }
    }

    /// Keeps a copy of everything `seq` has cached, for requests that begin with it. Used where the
    /// cache cannot be cut there after more has been added.
    fn keep_copy(&mut self, seq: SeqId) {
        if self.tree.is_kept(seq) {
            return;
        }
        let Some(copy) = self.free.pop_first() else { return };
        let (params, prompt) = (Parameters::DEFAULT, Vec::new());
        self.changes.push(Change::Open { seq: copy, params, prompt });
        self.tree.open(copy);
        self.copy(seq, copy, self.tree.cached(seq));
        self.tree.hold_for(copy, Hold::Kept);
    }

    fn copy(&mut self, from: SeqId, to: SeqId, n: usize) {
        self.tree.share(from, to, n);
        self.changes.push(Change::Copy { from, to, tokens: count(n) });
    }

    /// How many tokens `next` shares with a running request, which has cells for them or will.
    pub(super) fn shared_with_running(&self, next: &Sequence) -> usize {
        if self.prefix_cache != PrefixCache::Any {
            return 0;
        }
        let tokens = next.sharable();
        self.running.values().map(|other| common(other.tokens(), tokens)).max().unwrap_or(0)
    }
}

/// Whether `other` may wait for `one`.
fn precedes(one: &Sequence, other: &Sequence) -> bool {
    !one.decodes()
        && (Reverse(one.standing), one.arrival) < (Reverse(other.standing), other.arrival)
}

/// The prefix that `leader` will have computed for both, if it is ahead of what it has now and far
/// enough ahead of `at_hand`.
fn leads(leader: &Sequence, follower: &Sequence, at_hand: usize) -> Option<Leader> {
    let (theirs, ours) = (leader.tokens(), follower.sharable());
    // Most prompts differ early, which one slice comparison shows.
    let least = (at_hand + WORTH_WAITING).max(leader.cached() + 1);
    let alike = theirs.get(..least)? == ours.get(..least)?;
    let tokens = least + common(theirs.get(least..)?, ours.get(least..)?);
    alike.then_some(Leader { tokens, arrival: leader.arrival })
}
