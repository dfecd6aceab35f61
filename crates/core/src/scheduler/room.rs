//! Makes room: takes cells and sequences from the requests that need them least.

use super::queue::Waiting;
use super::sequence::Sequence;
use super::tree::Hold;
use super::{Change, Scheduler};
use crate::{PrefixCache, SeqId};

impl Scheduler {
    /// Makes room for the next forward pass. Frees as many cells as the running sequences can use,
    /// but only those of requests that are not running. If that leaves less than a cell for every
    /// decoding sequence, or none if none is decoding, preempts the lowest-ranked. A sequence alone
    /// always has room, because its prompt and answer fit the context.
    pub(super) fn make_room(&mut self) {
        while self.holding() > self.most_holding
            && (self.evict() || self.drop_paused() || self.give_up_kept())
        {}
        let wanted = self.wanted_cells();
        while self.cells_free() < wanted && (self.evict() || self.drop_paused()) {}
        while self.running.len() > 1 {
            let decoding = self.running.values().filter(|s| s.decodes()).count();
            if self.cells_free() >= decoding.max(1) {
                break;
            }
            self.preempt_least();
            // Cells that the preempted request shared may still be held by one that is not running.
            while self.cells_free() == 0 && (self.evict() || self.drop_paused()) {}
        }
    }

    fn holding(&self) -> usize {
        self.running.len() + self.tree.sequences(Hold::Paused) + self.tree.sequences(Hold::Kept)
    }

    /// The cells that the running sequences can use in one forward pass.
    fn wanted_cells(&self) -> usize {
        let wants = self.running.values().filter(|s| !s.follows()).map(Sequence::remaining);
        wants.sum::<usize>().clamp(1, self.n_batch)
    }

    /// Keeps the cells of `seq`, whose request has ended, for later requests that begin like it.
    pub(super) fn keep(&mut self, seq: SeqId) {
        if self.prefix_cache == PrefixCache::None || self.tree.cached(seq) == 0 {
            self.close(seq);
            return;
        }
        self.tree.hold_for(seq, Hold::Kept);
        while let Some(redundant) = self.tree.redundant(self.prefix_cache) {
            self.close(redundant);
        }
        // A forward pass reads every cell once, if only to see that it belongs to another sequence.
        while !self.own_cells_only
            && self.tree.cells_for(Hold::Kept) > self.n_ctx / 2
            && self.tree.least_recent(|_| true).is_some_and(|(least, _)| least != seq)
            && self.evict()
        {}
    }

    /// Frees the least recently used end of a branch that only ended requests hold. Returns false
    /// if there is none.
    pub(super) fn evict(&mut self) -> bool {
        let Some((seq, start)) = self.tree.least_recent(|_| true) else { return false };
        self.evict_end(seq, start);
        true
    }

    /// Frees the cells of `seq` from `start` on, first saving them if they are an unsaved
    /// session's, or parking them if that is worth it.
    pub(super) fn evict_end(&mut self, seq: SeqId, start: usize) {
        if !self.save_before_loss(seq) {
            self.park(seq, start);
        }
        match u32::try_from(start) {
            Ok(keep) if keep > 0 && self.prefix_cache == PrefixCache::Any => {
                self.tree.truncate(seq, start);
                self.changes.push(Change::Trim { seq, keep });
            }
            _ => self.close(seq),
        }
    }

    /// A sequence that holds nothing, taken from an ended request if necessary.
    pub(super) fn free_sequence(&mut self) -> Option<SeqId> {
        if self.free.is_empty() {
            self.give_up_kept();
        }
        self.free.pop_first()
    }

    /// Closes the least useful kept sequence. Returns false if there is none.
    fn give_up_kept(&mut self) -> bool {
        let least = || self.tree.least_recent(|_| true).map(|(seq, _)| seq);
        let redundant = self.tree.redundant(self.prefix_cache);
        match redundant.or_else(least).or_else(|| self.tree.kept().next()) {
            Some(seq) => {
                if Some(seq) != redundant {
                    self.save_before_loss(seq);
                }
                self.close(seq);
                true
            }
            None => false,
        }
    }

    /// Puts a paused request into the queue with its cells.
    pub(super) fn queue_paused(&mut self, seq: SeqId, mut sequence: Sequence) {
        sequence.follow(None);
        self.queue.push(Waiting { sequence, kept: Some(seq) });
    }

    /// Frees the cells of the lowest-ranked paused request. Returns false if none has any.
    pub(super) fn drop_paused(&mut self) -> bool {
        let least = self.queue.least_kept(|seq| self.tree.cached(seq) > 0);
        let Some(waiting) = least.and_then(|seq| self.queue.remove_kept(seq)) else {
            return false;
        };
        self.drop_cells(waiting.kept, waiting.sequence);
        true
    }

    /// Frees the cells of the lowest-ranked running request and puts it back into the queue.
    pub(super) fn preempt_least(&mut self) {
        let least = self.running.iter().min_by_key(|(_, sequence)| sequence.rank());
        let Some((&seq, _)) = least else { return };
        let Some(sequence) = self.running.remove(&seq) else { return };
        self.tree.hold_for(seq, Hold::Paused);
        self.drop_cells(Some(seq), sequence);
    }

    fn drop_cells(&mut self, kept: Option<SeqId>, mut sequence: Sequence) {
        sequence.preempt();
        if let Some(seq) = kept {
            self.tree.truncate(seq, 0);
            self.changes.push(Change::Trim { seq, keep: 0 });
        }
        self.queue.push(Waiting { sequence, kept });
    }
}
