//! Applies the outcome of a step to the scheduler.

use super::{Outcome, Output, Scheduler, Step};
use crate::{BackendError, ErrorCode, Failure, FinishReason, Plan, Sampled, SeqId};

impl Scheduler {
    /// Applies the outcome of `step`. Never fails: whatever the backend did, each request continues
    /// or ends.
    pub fn apply(&mut self, step: Step, outcome: Outcome, out: &mut Vec<Output>) {
        for (seq, failure) in outcome.refused {
            self.refused(seq, failure, out);
        }
        for seq in outcome.not_copied {
            self.tree.truncate(seq, 0);
            if let Some(sequence) = self.running.get_mut(&seq) {
                sequence.not_joined();
            }
        }
        for seq in outcome.not_restored {
            self.tree.truncate(seq, 0);
            if let Some(sequence) = self.running.get_mut(&seq) {
                sequence.not_restored();
            }
        }
        for seq in outcome.not_drafted {
            if let Some(sequence) = self.running.get_mut(&seq) {
                sequence.without_model();
            }
        }
        for number in outcome.lost {
            self.parked.forget(number);
        }
        match outcome.forward {
            Ok(sampled) => {
                self.learn_from_guesses(&step, outcome.drafting, &sampled);
                self.advance(&step.forward, &sampled, out);
            }
            // Requests canceled meanwhile are gone; the others are planned again.
            Err(BackendError::Interrupted) => {}
            Err(BackendError::CacheFull) => self.cache_full(&step.forward, out),
            Err(BackendError::Request(failure)) => self.one_failed(&step.forward, failure, out),
            Err(broken @ BackendError::Broken(_)) => self.fail_all(broken.into_failure(), out),
        }
    }

    fn advance(&mut self, forward: &Plan, sampled: &[Sampled], out: &mut Vec<Output>) {
        self.chunk_limit = None;
        self.no_drafts = false;
        self.age_prompts(forward);
        if let Some(feed) = forward.feeds.first() {
            self.suspects.retain(|seq| *seq != feed.seq);
        }
        for feed in &forward.feeds {
            let sampled = sampled.iter().filter(|sampled| sampled.seq == feed.seq).count();
            // Even if its request was canceled meanwhile: the cells exist.
            self.tree.append(feed.seq, &feed.tokens[..feed.kept(sampled)]);
            if let Some(sequence) = self.running.get_mut(&feed.seq) {
                sequence.fed(feed, sampled, out);
            }
        }
        for sampled in sampled {
            let Some(sequence) = self.running.get_mut(&sampled.seq) else { continue };
            if let Some(reason) = sequence.accept(sampled, self.n_ctx, out) {
                self.finish(sampled.seq, reason, out);
            }
        }
        for feed in &forward.feeds {
            // It would never be fed again.
            if self.running.get(&feed.seq).is_some_and(|sequence| sequence.remaining() == 0) {
                let failure = Failure::new(ErrorCode::Internal, "the backend sampled no token");
                self.fail(feed.seq, failure, out);
            }
        }
    }

    /// Handles a backend that has fewer cells than were counted. Gives up, in this order: drafts;
    /// cells of requests that are not running; prompt tokens per pass; running requests. A request
    /// that does not fit even alone has reached the end of its context.
    fn cache_full(&mut self, forward: &Plan, out: &mut Vec<Output>) {
        if self.without_drafts(forward) {
            return;
        }
        let goal = self.cells_used().saturating_sub(forward.n_tokens());
        let mut took = false;
        while self.cells_used() > goal && (self.evict() || self.drop_paused()) {
            took = true;
        }
        if took {
            return;
        }
        let decoding = forward.feeds.iter().filter(|feed| feed.decodes()).count();
        let reading = forward.n_tokens() - decoding;
        if reading > 1 || (reading == 1 && decoding > 0) {
            self.chunk_limit = Some(reading / 2);
            return;
        }
        self.capacity = self.cells_used();
        if self.running.len() > 1 {
            self.preempt_least();
            return;
        }
        let Some((&seq, sequence)) = self.running.first_key_value() else { return };
        if sequence.has_answer() {
            self.finish(seq, FinishReason::Length, out);
        } else {
            let (prompt, cells) = (sequence.tokens().len(), sequence.cached());
            let message =
                format!("the prompt is {prompt} tokens long, but the cache was full after {cells}");
            self.fail(seq, Failure::new(ErrorCode::ContextExceeded, message), out);
        }
    }

    /// Handles a failure of one sequence when the backend does not say which: tries each alone. If
    /// the pass had drafts, first tries again without them, as they may be the cause.
    fn one_failed(&mut self, forward: &Plan, failure: Failure, out: &mut Vec<Output>) {
        if self.without_drafts(forward) {
            return;
        }
        match forward.feeds.as_slice() {
            [feed] => self.fail(feed.seq, failure, out),
            feeds => self.suspects = feeds.iter().map(|feed| feed.seq).collect(),
        }
    }

    fn finish(&mut self, seq: SeqId, reason: FinishReason, out: &mut Vec<Output>) {
        if let Some(sequence) = self.running.remove(&seq) {
            self.note_unsaved(seq, &sequence);
            self.keep(seq);
            // If the cache was smaller than it should be, this request may have been the cause.
            self.capacity = self.n_ctx;
            out.push(sequence.finished(reason));
        }
    }

    fn fail(&mut self, seq: SeqId, failure: Failure, out: &mut Vec<Output>) {
        if let Some(sequence) = self.running.remove(&seq) {
            self.close(seq);
            out.push(sequence.failed(failure));
        }
    }

    /// Handles a sequence that the backend refused and has already closed. Its request may be
    /// running, waiting or ended.
    fn refused(&mut self, seq: SeqId, failure: Failure, out: &mut Vec<Output>) {
        if self.tree.hold(seq).is_none() {
            return;
        }
        self.tree.close(seq);
        self.free.insert(seq);
        let waiting = || self.queue.remove_kept(seq).map(|waiting| waiting.sequence);
        if let Some(sequence) = self.running.remove(&seq).or_else(waiting) {
            out.push(sequence.failed(failure));
        }
    }

    fn fail_all(&mut self, failure: Failure, out: &mut Vec<Output>) {
        let running = std::mem::take(&mut self.running).into_values();
        let waiting = self.queue.drain().map(|waiting| waiting.sequence);
        out.extend(running.chain(waiting).map(|sequence| sequence.failed(failure.clone())));
        self.changes.clear();
        self.unsaved.clear();
        self.parked.clear();
        self.tree.clear();
        self.broken = Some(failure);
    }
}
