//! Who gets drafts in a forward pass, and what came of them.

use std::time::Duration;

use super::draft::{Outlook, allot};
use super::sequence::Sequence;
use super::{Scheduler, Step};
use crate::{DraftRequest, Feed, Parameters, Plan, Sampled};

impl Scheduler {
    /// Whether a request with these parameters has drafts at all: not where they could change what
    /// is to come out the same again.
    pub(super) fn may_have_drafts(&self, params: &Parameters) -> bool {
        let greedy = self.draft_greedy && params.seed.is_none();
        self.most_drafts > 0 && (self.draft_repeatable || greedy || !params.repeatable())
    }

    /// Adds drafts to a forward pass in which nothing but decoding is done, where they are expected
    /// to make it quicker and there are cells for them that nobody else has. Those of the draft model
    /// are still to be computed.
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

    /// How many drafts each sequence gets, and which of them are the draft model's.
    fn choose(&self, running: &[Option<&Sequence>], most: usize) -> (Vec<usize>, Vec<bool>) {
        let pass = |drafts: &[usize]| self.costs.ratio(drafts.len() + drafts.iter().sum::<usize>());
        let looked_up: Vec<Option<Outlook>> =
            running.iter().map(|sequence| (*sequence)?.outlook()).collect();
        let plain = allot(&looked_up, most, pass);
        // What passes without drafts take must be known first, or it would never be found out.
        if !self.draft_model || !self.decoded_plainly {
            return (plain.drafts, vec![false; running.len()]);
        }
        let model = |sequence: &Option<&Sequence>| (*sequence)?.model_outlook(self.skill);
        let computed: Vec<Option<Outlook>> = running.iter().map(model).collect();
        // What is looked up costs nothing, so it goes first where it is as likely.
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

    /// A forward pass took so long. From this it is learnt what drafts cost, and prompts.
    pub fn took(&mut self, forward: &Plan, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        if !forward.feeds.iter().all(Feed::decodes) {
            self.pace.observe(forward.n_tokens(), seconds);
        } else if self.most_drafts > 0 {
            self.costs.observe(forward.n_tokens(), seconds);
        }
    }

    /// Takes note of which guesses of the draft model came true, and of how long it took.
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
        // Where it had to read what was said so far, that took most of the time.
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

    /// After a forward pass that could not be done: if it had drafts, the next has none.
    pub(super) fn without_drafts(&mut self, forward: &Plan) -> bool {
        self.no_drafts = forward.feeds.iter().any(|feed| feed.drafts > 0);
        self.no_drafts
    }
}
