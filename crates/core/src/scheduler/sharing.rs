//! Requests that begin alike compute what they have in common once.

use std::cmp::Reverse;

use super::sequence::{Leader, Sequence, count};
use super::tree::{Hold, common};
use super::{Change, Scheduler};
use crate::{Parameters, PrefixCache, SeqId};

/// How many tokens another must be about to compute to be waited for: a forward pass takes about as
/// long as some prompt tokens in one that takes place anyway.
pub(super) const WORTH_WAITING: usize = 16;

impl Scheduler {
    /// Lets every prompt that is being read begin with what is cached, or wait for one before it
    /// that is about to compute more of it. The first of all waits for nobody, so each that waits
    /// does so for one that gets on.
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

    /// The same for one.
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
        // Others will come that part here from this one.
        let led =
            there.is_some_and(|(from, n)| n >= WORTH_WAITING && self.running.contains_key(&from));
        if parted || (led && matches!(self.prefix_cache, PrefixCache::Window(_))) {
            self.keep_copy(seq);
        }
    }

    /// Keeps all that `seq` has so far for those who begin with it, where later, when more has
    /// been added, it could not be cut off again.
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

    /// How many of the tokens of one that is to run those have, or will have, that do.
    pub(super) fn shared_with_running(&self, next: &Sequence) -> usize {
        if self.prefix_cache != PrefixCache::Any {
            return 0;
        }
        let tokens = next.sharable();
        self.running.values().map(|other| common(other.tokens(), tokens)).max().unwrap_or(0)
    }
}

/// Whether the one may be waited for by the other.
fn precedes(one: &Sequence, other: &Sequence) -> bool {
    !one.decodes()
        && (Reverse(one.standing), one.arrival) < (Reverse(other.standing), other.arrival)
}

/// What `leader` will have computed of what both need, if that is more than it has now, and enough
/// more than is `at_hand`.
fn leads(leader: &Sequence, follower: &Sequence, at_hand: usize) -> Option<Leader> {
    let (theirs, ours) = (leader.tokens(), follower.sharable());
    // Most prompts differ early; one comparison of memory shows it.
    let least = (at_hand + WORTH_WAITING).max(leader.cached() + 1);
    let alike = theirs.get(..least)? == ours.get(..least)?;
    let tokens = least + common(theirs.get(least..)?, ours.get(least..)?);
    alike.then_some(Leader { tokens, arrival: leader.arrival })
}
