//! Chooses which prompts to read next, and how much of each.
//!
//! Prompts are read one after the other: two prompts read side by side are both late, and each of
//! their tokens pays for the cells of both. The prompt with the least left to read goes first,
//! which minimizes the mean wait. Tokens read of other prompts move a waiting prompt forward, so
//! none waits forever.

use super::Scheduler;
use super::sequence::Sequence;
use crate::{Feed, Plan, PrefixCache, Priority, SeqId};

/// This many tokens read of others make a prompt count as one token shorter. A prompt of 3,000
/// tokens lets about 10,000 tokens of 400-token prompts go first.
const PATIENCE: usize = 4;

/// Prompts of one priority, in reading order.
struct Class<'a> {
    weight: usize,
    prompts: Vec<(SeqId, &'a Sequence, usize)>,
}

impl Class<'_> {
    fn wants(&self) -> usize {
        self.prompts.iter().map(|(_, _, wants)| wants).sum()
    }
}

impl Scheduler {
    /// Adds pieces of prompts to a forward pass that has the current answers; at most `others`
    /// tokens from requests that are not interactive.
    pub(super) fn add_prompts(&self, plan: &mut Plan, mut others: usize) {
        let mut budget = self.prompt_tokens(plan);
        // Shares by weight; what one class does not need goes to the others.
        let mut classes: Vec<Class<'_>> =
            [Priority::Interactive, Priority::Normal, Priority::Batch]
                .into_iter()
                .map(|priority| self.class(priority))
                .filter(|class| !class.prompts.is_empty())
                .collect();
        classes.sort_by_key(|class| class.wants() * weight(Priority::Interactive) / class.weight);
        let mut weights: usize = classes.iter().map(|class| class.weight).sum();
        for class in classes {
            let share = class.wants().min((budget * class.weight).div_ceil(weights));
            weights -= class.weight;
            let mut left = share;
            for (seq, sequence, wants) in class.prompts {
                let mut tokens = wants.min(left);
                if !sequence.is_interactive() {
                    tokens = tokens.min(others);
                    others -= tokens;
                }
                if tokens > 0 {
                    plan.feeds.push(sequence.feed(seq, tokens));
                }
                left -= tokens;
                budget -= tokens;
            }
        }
    }

    /// The maximum number of prompt tokens in a forward pass that has all current answers.
    fn prompt_tokens(&self, plan: &Plan) -> usize {
        let answers = plan.feeds.len();
        let watched = |seq| self.running.get(seq).is_some_and(|s| s.priority() > Priority::Batch);
        let watched = plan.feeds.iter().any(|feed| watched(&feed.seq));
        let width = match self.deterministic {
            true => self.n_batch,
            false => self.pace.width(watched, self.n_batch),
        };
        // Prompts advance however many answers are in progress.
        let prompts = width.saturating_sub(answers).max(width / 4);
        prompts
            .min(self.n_batch.min(self.cells_free()).saturating_sub(answers))
            .min(self.chunk_limit.unwrap_or(usize::MAX))
    }

    /// The prompts of a priority that can be read now.
    fn class(&self, priority: Priority) -> Class<'_> {
        let reading = self.running.iter().filter(|(_, sequence)| {
            sequence.priority() == priority && !sequence.decodes() && !sequence.follows()
        });
        let mut prompts: Vec<_> =
            reading.map(|(seq, sequence)| (*seq, sequence, self.wants(sequence))).collect();
        prompts.sort_by_key(|(_, sequence, _)| (self.distance(sequence), sequence.arrival));
        Class { weight: weight(priority), prompts }
    }

    /// The tokens left until a first token: its own, or that of a request that waits for its
    /// prefix.
    fn distance(&self, sequence: &Sequence) -> usize {
        let others = self.running.values().filter(|other| other.awaits(sequence).is_some());
        others.chain([sequence]).map(left_to_read).min().unwrap_or(0)
    }

    /// How many tokens it can be fed. If cells can be shared only as a whole, it stops where a
    /// waiting request diverges from it.
    fn wants(&self, sequence: &Sequence) -> usize {
        let wants = sequence.piece().min(sequence.until_parting());
        if !matches!(self.prefix_cache, PrefixCache::Window(_)) {
            return wants;
        }
        self.running.values().filter_map(|s| s.awaits(sequence)).fold(wants, usize::min)
    }

    /// Ages the prompts that a forward pass did not read.
    pub(super) fn age_prompts(&mut self, plan: &Plan) {
        let prompts = plan.feeds.iter().filter(|feed| !feed.decodes());
        let read: usize = prompts.map(Feed::known).sum();
        for (seq, sequence) in &mut self.running {
            if !sequence.decodes() && plan.feeds.iter().all(|feed| feed.seq != *seq) {
                sequence.was_passed_by(read);
            }
        }
    }
}

/// The tokens left to read, reduced by what it has waited.
fn left_to_read(sequence: &Sequence) -> usize {
    sequence.remaining().saturating_sub(sequence.passed_by() / PATIENCE)
}

/// A priority's relative share of a batch.
fn weight(priority: Priority) -> usize {
    match priority {
        Priority::Interactive => 16,
        Priority::Normal => 4,
        Priority::Batch => 1,
    }
}
