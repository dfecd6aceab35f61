//! Requests that begin alike compute what they have in common once.

use std::cmp::Reverse;

use super::sequence::{Leader, Sequence};
use super::tree::common;
use super::{Change, Scheduler};
use crate::{PrefixCache, SeqId};

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
        let there = self.tree.longest(tokens, self.prefix_cache);
        let there = there.filter(|(_, n)| *n > sequence.cached());
        let at_hand = there.map_or(sequence.cached(), |(_, n)| n);
        let coming = self.running.values().filter(|other| precedes(other, sequence));
        let coming = coming.filter_map(|leader| leads(leader, sequence, at_hand)).max();
        let Some(sequence) = self.running.get_mut(&seq) else { return };
        sequence.follow(coming);
        if coming.is_some() {
            return;
        }
        if let Some((from, n)) = there
            && let Ok(tokens) = u32::try_from(n)
        {
            sequence.joined(n);
            self.tree.truncate(seq, 0);
            self.tree.share(from, seq, n);
            self.changes.push(Change::Copy { from, to: seq, tokens });
        }
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
