//! Chooses which sequences get drafts in a forward pass, and learns from the results.

use std::time::Duration;

use super::draft::{Outlook, allot};
use super::sequence::Sequence;
use super::{Scheduler, Step};
use crate::{DraftRequest, Feed, Parameters, Plan, Sampled};

impl Scheduler {
    /// Whether a request with these parameters may have drafts. Repeatable answers, which drafts
    /// could change, get them only if that is enabled.
    pub(super) fn may_have_drafts(&self, params: &Parameters) -> bool {
        let greedy = self.draft_greedy && params.seed.is_none();
        self.most_drafts > 0 && (self.draft_repeatable || greedy || !params.repeatable())
    }

    /// Adds drafts to a forward pass that only decodes, if they are expected to make it faster and
    /// there are free cells for them. Returns the requests for the draft model, whose guesses are
    /// added later.
    pub(super) fn add_drafts(&self, forward: &mut Plan) -> Vec<DraftRequest> {
        let most = self
            .most_drafts
            .min(self.n_batch.saturating_sub(forward.feeds.len()))
            .min(self.cells_free().saturating_sub(forward.feeds.len()));
        if self.no_drafts || most == 0 || !forward.feeds.iter().all(Feed::decodes) {
            return Vec::new();
        }
        let running: Vec<Option<&Sequence>> =
            forward.feeds.iter().map(|feed| self.running.get(&feed.seq)).collect();
        let (drafts, by_model) = self.choose(&running, most);
        let mut drafting = Vec::new();
        let chosen = running.into_iter().zip(drafts).zip(by_model);
        for (feed, ((sequence, n), by_model)) in forward.feeds.iter_mut().zip(chosen) {
            let Some(sequence) = sequence else { continue };
            match (by_model, sequence.most_drafts(n, self.n_ctx)) {
                (_, 0) => {}
                (false, n) => sequence.add_drafts(feed, n, self.n_ctx),
                (true, n) => {
                    let tokens = sequence.tokens().to_vec();
                    drafting.push(DraftRequest { seq: feed.seq, tokens, n });
                }
            }
        }
        drafting
    }

    /// How many drafts each sequence gets, and for which sequences the draft model makes them.
    fn choose(&self, running: &[Option<&Sequence>], most: usize) -> (Vec<usize>, Vec<bool>) {
        let pass = |drafts: &[usize]| self.costs.ratio(drafts.len() + drafts.iter().sum::<usize>());
        let looked_up: Vec<Option<Outlook>> =
            running.iter().map(|sequence| (*sequence)?.outlook()).collect();
        let plain = allot(&looked_up, most, pass);
        // Passes without drafts come first; otherwise their cost would never be measured.
        if !self.draft_model || !self.decoded_plainly {
            return (plain.drafts, vec![false; running.len()]);
        }
        let model = |sequence: &Option<&Sequence>| (*sequence)?.model_outlook(self.skill);
        let computed: Vec<Option<Outlook>> = running.iter().map(model).collect();
        // Lookup is free, so it wins unless the model is likelier to be right.
        let by_model: Vec<bool> = looked_up
            .iter()
            .zip(&computed)
            .map(|pair| match pair {
                (Some(looked_up), Some(computed)) => computed.first > looked_up.first,
                (None, Some(_)) => true,
                (_, None) => false,
            })
            .collect();
        if !by_model.contains(&true) {
            return (plain.drafts, vec![false; running.len()]);
        }
        let better = |at: usize| if by_model[at] { computed[at] } else { looked_up[at] };
        let outlooks: Vec<Option<Outlook>> = (0..running.len()).map(better).collect();
        let with_model = allot(&outlooks, most, |drafts| {
            let of_model = drafts.iter().zip(&by_model).filter(|(_, by_model)| **by_model);
            let of_model: Vec<usize> = of_model.map(|(n, _)| *n).collect();
            pass(drafts) + self.guess_costs.of(&of_model, &self.costs)
        });
        match with_model.rate > plain.rate {
            true => (with_model.drafts, by_model),
            false if self.probes.due() => {
                let mut left = most;
                let one = |by_model: &bool| {
                    let one = usize::from(*by_model).min(left);
                    left -= one;
                    one
                };
                (by_model.iter().map(one).collect(), by_model)
            }
            false => (plain.drafts, vec![false; running.len()]),
        }
    }

    /// Records how long a forward pass took, to learn the cost of drafts and of reading prompts.
    pub fn took(&mut self, forward: &Plan, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        if !forward.feeds.iter().all(Feed::decodes) {
            self.pace.observe(forward.n_tokens(), seconds);
        } else if self.most_drafts > 0 {
            self.costs.observe(forward.n_tokens(), seconds);
        }
    }

    /// Records which of the draft model's guesses were accepted, and how long it took.
    pub(super) fn learn_from_guesses(&mut self, step: &Step, took: Duration, sampled: &[Sampled]) {
        if !self.draft_model {
            return;
        }
        let plain = |feed: &Feed| feed.sample && feed.tokens.len() == 1;
        self.decoded_plainly |= step.forward.feeds.iter().all(plain);
        let (mut all, mut longest) = (!step.drafting.is_empty(), 0);
        for feed in step.forward.feeds.iter().filter(|feed| feed.sample) {
            let asked = step.drafting.iter().any(|request| request.seq == feed.seq);
            let Some(sequence) = self.running.get_mut(&feed.seq) else { continue };
            match (asked, feed.drafts) {
                (true, 0) => all = false,
                (true, guesses) => {
                    let sampled = sampled.iter().filter(|it| it.seq == feed.seq).count();
                    let right = feed.kept(sampled) - feed.known();
                    sequence.guessed(guesses, right, self.skill);
                    self.skill.observe_any(guesses, right);
                    longest = longest.max(guesses);
                }
                (false, _) => sequence.not_guessed(),
            }
        }
        // If it was still reading a sequence, that took most of the time.
        if all {
            self.guess_costs.observe(step.drafting.len(), longest, took.as_secs_f64());
        }
        if step.drafting.is_empty() {
            self.skill.fade();
            self.guess_costs.fade();
            self.probes.not_asked();
        } else if all {
            self.probes.asked();
        }
    }

    /// Called after a forward pass failed. If it had drafts, the next one has none; returns whether
    /// it had.
    pub(super) fn without_drafts(&mut self, forward: &Plan) -> bool {
        self.no_drafts = forward.feeds.iter().any(|feed| feed.drafts > 0);
        self.no_drafts
    }
}
