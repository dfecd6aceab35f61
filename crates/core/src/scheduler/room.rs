//! Taking cells and sequences from those who need them least.

use super::queue::Waiting;
use super::sequence::Sequence;
use super::tree::Hold;
use super::{Change, Scheduler};
use crate::{PrefixCache, SeqId};

impl Scheduler {
    /// Makes room for the next forward pass: a cell for every decoding sequence, or one if none is
    /// decoding, at the cost of whoever is least; and as many as the prompts could use at the cost
    /// of those that do not run. One alone always has room: its prompt and answer fit the context.
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
            // Whom it shared cells with may be one that does not run.
            while self.cells_free() == 0 && (self.evict() || self.drop_paused()) {}
        }
    }

    fn holding(&self) -> usize {
        self.running.len() + self.tree.sequences(Hold::Paused) + self.tree.sequences(Hold::Kept)
    }

    /// Cells that the running sequences can use in one forward pass.
    fn wanted_cells(&self) -> usize {
        let wants = self.running.values().filter(|s| !s.follows()).map(Sequence::remaining);
        wants.sum::<usize>().clamp(1, self.n_batch)
    }

    /// The request of `seq` has ended; its cells stay for those who will begin like it.
    pub(super) fn keep(&mut self, seq: SeqId) {
        if self.prefix_cache == PrefixCache::None || self.tree.cached(seq) == 0 {
            self.close(seq);
            return;
        }
        self.tree.hold_for(seq, Hold::Kept);
        while let Some(redundant) = self.tree.redundant(self.prefix_cache) {
            self.close(redundant);
        }
        // A forward pass looks at every cell once to see that it is not its own.
        while !self.own_cells_only
            && self.tree.cells_for(Hold::Kept) > self.n_ctx / 2
            && self.tree.least_recent(|_| true).is_some_and(|(least, _)| least != seq)
            && self.evict()
        {}
    }

    /// Forgets the end of a branch that no request has and that was of use least recently. False
    /// where there is none.
    pub(super) fn evict(&mut self) -> bool {
        let Some((seq, start)) = self.tree.least_recent(|_| true) else { return false };
        self.evict_end(seq, start);
        true
    }

    /// Takes the cells of `seq` from `start` on, which it alone has; elsewhere they may live on.
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

    /// A sequence that holds nothing; made so if it must be.
    pub(super) fn free_sequence(&mut self) -> Option<SeqId> {
        if self.free.is_empty() {
            self.give_up_kept();
        }
        self.free.pop_first()
    }

    /// Closes the kept sequence that is of least use. False where there is none.
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

    /// Lets a request wait that was running, with its cells.
    pub(super) fn queue_paused(&mut self, seq: SeqId, mut sequence: Sequence) {
        sequence.follow(None);
        self.queue.push(Waiting { sequence, kept: Some(seq) });
    }

    /// Takes the cells of the least of the paused requests. False where none has any.
    pub(super) fn drop_paused(&mut self) -> bool {
        let least = self.queue.least_kept(|seq| self.tree.cached(seq) > 0);
        let Some(waiting) = least.and_then(|seq| self.queue.remove_kept(seq)) else {
            return false;
        };
        self.drop_cells(waiting.kept, waiting.sequence);
        true
    }

    /// Takes the cells of the least of the running requests and lets it wait for its turn again.
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
