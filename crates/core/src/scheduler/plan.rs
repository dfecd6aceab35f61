//! Deciding on the next step.

use super::{Change, Scheduler, Step};
use crate::{Plan, SeqId};

impl Scheduler {
    /// What to do now. The step must be carried out and given to [`Scheduler::apply`] before the
    /// next is planned.
    pub fn plan(&mut self) -> Step {
        self.make_room();
        let forward = match self.next_suspect() {
            Some(seq) => self.alone(seq),
            None => {
                self.admit();
                self.fill_batch()
            }
        };
        Step { changes: std::mem::take(&mut self.changes), forward }
    }

    /// Preempts until every decoding sequence can have a cell, and one of the others if none is
    /// decoding. One alone always can: its prompt and answer fit the context.
    fn make_room(&mut self) {
        while self.running.len() > 1 {
            let decoding = self.running.values().filter(|s| s.remaining() == 1).count();
            if self.cells_free() >= decoding.max(1) {
                break;
            }
            self.preempt_least();
        }
    }

    /// Lets requests join while there is a sequence for them and their prompt fits beside what
    /// the running ones are committed to. The next in turn is waited for, not passed by, or a long
    /// prompt would starve behind short ones.
    fn admit(&mut self) {
        let headroom = self.headroom();
        let commitment = |sequence: &super::Sequence| sequence.commitment(self.n_ctx, headroom);
        let mut committed: usize = self.running.values().map(commitment).sum();
        while let Some(next) = self.queue.peek(!self.free.is_empty()) {
            let needed = next.commitment(self.n_ctx, headroom);
            if !self.running.is_empty() && committed + needed > self.capacity {
                break;
            }
            let Some(waiting) = self.queue.pop(!self.free.is_empty()) else { break };
            let seq = match waiting.kept {
                Some(seq) => seq,
                None => {
                    let Some(seq) = self.free.pop_first() else { break };
                    let params = waiting.sequence.params().clone();
                    let prompt = waiting.sequence.tokens().to_vec();
                    self.changes.push(Change::Open { seq, params, prompt });
                    seq
                }
            };
            committed += needed;
            self.running.insert(seq, waiting.sequence);
        }
    }

    /// Cells kept for the answer of each running request, so that one is not admitted only to be
    /// preempted a few tokens later.
    fn headroom(&self) -> usize {
        (self.n_ctx / 64).min(32)
    }

    fn fill_batch(&self) -> Plan {
        let (decoding, mut reading): (Vec<_>, Vec<_>) =
            self.running.iter().partition(|(_, sequence)| sequence.remaining() == 1);
        let mut plan = Plan::default();
        plan.feeds.extend(decoding.iter().map(|(seq, sequence)| sequence.feed(**seq, 1)));

        let mut budget = self
            .n_batch
            .min(self.cells_free())
            .saturating_sub(decoding.len())
            .min(self.chunk_limit.unwrap_or(usize::MAX));
        // Equal shares, and what the short ones do not need is the long ones'.
        reading.sort_by_key(|(_, sequence)| (sequence.remaining(), sequence.arrival));
        let readers = reading.len();
        for (place, (seq, sequence)) in reading.into_iter().enumerate() {
            let share = sequence.remaining().min(budget.div_ceil(readers - place));
            if share > 0 {
                plan.feeds.push(sequence.feed(*seq, share));
                budget -= share;
            }
        }
        plan
    }

    /// The first suspect that still runs.
    fn next_suspect(&mut self) -> Option<SeqId> {
        while let Some(seq) = self.suspects.front() {
            if self.running.contains_key(seq) {
                return Some(*seq);
            }
            self.suspects.pop_front();
        }
        None
    }

    /// A forward pass of one sequence, at most what a batch and the cache can take.
    fn alone(&self, seq: SeqId) -> Plan {
        let limit = self.chunk_limit.unwrap_or(usize::MAX).max(1);
        let limit = limit.min(self.n_batch).min(self.cells_free());
        let feed = self.running.get(&seq).map(|s| s.feed(seq, s.remaining().min(limit)));
        Plan { feeds: feed.into_iter().collect() }
    }
}
