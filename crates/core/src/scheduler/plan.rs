//! Plans the next step: admits requests and fills the batch.

use std::collections::BTreeSet;

use super::sequence::Sequence;
use super::tree::Hold;
use super::{Change, Scheduler, Step};
use crate::{Plan, Priority, SeqId};

/// While an interactive request runs, prompts of other requests get at most this fraction of a
/// batch: every token of the interactive answer waits for theirs, above all its first.
const SHARE_BESIDE_INTERACTIVE: usize = 8;

/// The maximum number of cells reserved for the answer of each running request. Most answers of
/// batch jobs are no longer, and a preempted request has to recompute its whole prompt.
const MOST_HEADROOM: usize = 128;

impl Scheduler {
    /// Decides what to do now. Carry out the step and pass it to [`Scheduler::apply`] before
    /// planning the next.
    pub fn plan(&mut self) -> Step {
        let (forward, drafting) = match self.next_suspect() {
            Some(seq) => {
                self.make_room();
                (self.alone(seq), Vec::new())
            }
            None => {
                self.admit();
                self.share_prefixes();
                self.clear_stale();
                self.make_room();
                let mut forward = self.fill_batch();
                let drafting = self.add_drafts(&mut forward);
                (forward, drafting)
            }
        };
        let interactive = |seq| self.running.get(seq).is_some_and(Sequence::is_interactive);
        let interactive = forward.feeds.iter().any(|feed| interactive(&feed.seq));
        Step { changes: std::mem::take(&mut self.changes), drafting, forward, interactive }
    }

    /// Admits requests while there is a sequence for them and their prompt fits beside what the
    /// running requests are committed to. The next in line is waited for rather than passed by;
    /// otherwise short prompts would starve a long one. Only an interactive request passes others
    /// by, by pausing some of the running ones.
    fn admit(&mut self) {
        let mut fresh = BTreeSet::new();
        loop {
            let sequence_free = !self.free.is_empty() || self.tree.kept().next().is_some();
            let Some(next) = self.queue.peek(sequence_free) else { break };
            let waiting = if self.fits(next) {
                self.queue.pop(sequence_free)
            } else if self.make_way(sequence_free, &fresh) {
                self.queue.pop_interactive(sequence_free)
            } else {
                break;
            };
            let Some(waiting) = waiting else { break };
            let seq = match waiting.kept {
                Some(seq) => {
                    self.tree.hold_for(seq, Hold::Running);
                    seq
                }
                None => {
                    let Some(seq) = self.free_sequence() else {
                        self.queue.push(waiting);
                        break;
                    };
                    let params = waiting.sequence.params().clone();
                    let prompt = waiting.sequence.tokens().to_vec();
                    self.changes.push(Change::Open { seq, params, prompt });
                    self.tree.open(seq);
                    seq
                }
            };
            self.running.insert(seq, waiting.sequence);
            self.restore_saved(seq);
            self.share_prefix(seq);
            fresh.insert(seq);
        }
    }

    /// Whether there is room to run `next` as well.
    fn fits(&self, next: &Sequence) -> bool {
        if self.running.is_empty() {
            return true;
        }
        if self.running.len() >= self.most_running {
            return false;
        }
        let headroom = self.headroom();
        let running: usize = self.running.values().map(|s| s.needs(self.n_ctx, headroom)).sum();
        let committed = self.tree.cells_for(Hold::Running) + running;
        // While it waits, its own cells do not count as running.
        let needed = next.cached() + next.needs(self.n_ctx, headroom);
        let shared = self.shared_with_running(next);
        committed + needed.saturating_sub(shared) <= self.capacity
    }

    /// Makes room for the next interactive request by pausing as many of the lowest-ranked others
    /// as needed; none if pausing all of them would not suffice. Spares requests admitted in this
    /// step: each gets at least one step, so none is paused forever.
    fn make_way(&mut self, sequence_free: bool, fresh: &BTreeSet<SeqId>) -> bool {
        let mut paused = Vec::new();
        while let Some(next) = self.queue.peek_interactive(sequence_free) {
            if self.fits(next) {
                for (seq, sequence) in paused {
                    self.queue_paused(seq, sequence);
                }
                return true;
            }
            let can_wait = |(seq, sequence): &(&SeqId, &Sequence)| {
                sequence.standing < Priority::Interactive && !fresh.contains(seq)
            };
            let least = self.running.iter().filter(can_wait).min_by_key(|(_, s)| s.rank());
            let Some((&seq, _)) = least else { break };
            let Some(sequence) = self.running.remove(&seq) else { break };
            self.tree.hold_for(seq, Hold::Paused);
            paused.push((seq, sequence));
        }
        for (seq, sequence) in paused {
            self.tree.hold_for(seq, Hold::Running);
            self.running.insert(seq, sequence);
        }
        false
    }

    /// Cells reserved for the answer of each running request, so that a request is not admitted
    /// only to be preempted a few tokens later.
    fn headroom(&self) -> usize {
        (self.n_ctx / 64).min(MOST_HEADROOM)
    }

    /// Plans one token for each current answer, and pieces of prompts. If all other answers
    /// together would hold up an interactive request, they take turns.
    fn fill_batch(&mut self) -> Plan {
        let answers = self.running.iter().filter(|(_, sequence)| sequence.decodes());
        let (interactive, mut others): (Vec<_>, Vec<_>) =
            answers.map(|(seq, s)| (s, s.feed(*seq, 1))).partition(|(s, _)| s.is_interactive());
        let mut beside = usize::MAX;
        if self.running.values().any(Sequence::is_interactive) {
            beside = (self.n_batch / SHARE_BESIDE_INTERACTIVE).max(1);
            if let Some(most) = self.pace.beside_interactive(self.n_batch) {
                if others.len() > most {
                    let first = self.turn % others.len();
                    others.rotate_left(first);
                    others.truncate(most);
                    self.turn = first + most;
                }
                beside = beside.min(most - others.len());
            }
        }
        let feeds = interactive.into_iter().chain(others).map(|(_, feed)| feed);
        let mut plan = Plan { feeds: feeds.collect() };
        self.add_prompts(&mut plan, beside);
        plan
    }

    /// The first suspect that is still running.
    fn next_suspect(&mut self) -> Option<SeqId> {
        while let Some(seq) = self.suspects.front() {
            if self.running.contains_key(seq) {
                return Some(*seq);
            }
            self.suspects.pop_front();
        }
        None
    }

    /// A forward pass with only this sequence, as wide as the batch and the cache allow.
    fn alone(&self, seq: SeqId) -> Plan {
        let limit = self.chunk_limit.unwrap_or(usize::MAX).max(1);
        let limit = limit.min(self.n_batch).min(self.cells_free());
        let feed = self.running.get(&seq).map(|s| s.feed(seq, s.piece().min(limit)));
        Plan { feeds: feed.into_iter().filter(|feed| !feed.tokens.is_empty()).collect() }
    }
}
