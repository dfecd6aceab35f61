//! Who gets drafts in a forward pass, and what came of them.

use std::time::Duration;

use super::Scheduler;
use super::draft::allot;
use crate::{Feed, Plan};

impl Scheduler {
    /// Adds drafts to a forward pass in which nothing but decoding is done, where they are expected
    /// to make it quicker and there are cells for them that nobody else has.
    pub(super) fn add_drafts(&self, forward: &mut Plan) {
        let most = self
            .most_drafts
            .min(self.n_batch.saturating_sub(forward.feeds.len()))
            .min(self.cells_free().saturating_sub(forward.feeds.len()));
        let reads = |feed: &Feed| !feed.sample || feed.tokens.len() > 1;
        if self.no_drafts || most == 0 || forward.feeds.iter().any(reads) {
            return;
        }
        let sequence = |feed: &Feed| self.running.get(&feed.seq);
        let outlooks: Vec<_> = forward.feeds.iter().map(|feed| sequence(feed)?.outlook()).collect();
        let drafts = allot(&outlooks, most, |width| self.costs.ratio(width));
        for (feed, n) in forward.feeds.iter_mut().zip(drafts) {
            if let Some(sequence) = self.running.get(&feed.seq) {
                sequence.add_drafts(feed, n, self.n_ctx);
            }
        }
    }

    /// A forward pass took so long. From this it is learnt what drafts cost.
    pub fn took(&mut self, forward: &Plan, elapsed: Duration) {
        let decodes = |feed: &Feed| feed.sample && feed.tokens.len() == 1 + feed.drafts;
        if self.most_drafts > 0 && forward.feeds.iter().all(decodes) {
            self.costs.observe(forward.n_tokens(), elapsed.as_secs_f64());
        }
    }

    /// After a forward pass that could not be done: if it had drafts, the next has none.
    pub(super) fn without_drafts(&mut self, forward: &Plan) -> bool {
        self.no_drafts = forward.feeds.iter().any(|feed| feed.drafts > 0);
        self.no_drafts
    }
}
