//! Which prompts are read next, and how much of each.
//!
//! One after the other: two prompts that are read side by side are both late, and each of their
//! tokens pays for the cells of both. The one with the least left to read goes first, which makes
//! the mean wait the least there can be; but each token that is read of others in its place brings
//! a prompt forward, so that none waits for ever.

use super::Scheduler;
use super::sequence::Sequence;
use crate::{Feed, Plan, PrefixCache, Priority, SeqId};

/// So many tokens that are read of others make a prompt one token shorter in the order. One of
/// 3,000 tokens lets some 10,000 of prompts of 400 pass by.
const PATIENCE: usize = 4;

/// Prompts of one priority, in the order in which they are read.
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
    /// Adds pieces of prompts to a forward pass that has the answers under way: of those that are not
    /// interactive `others` tokens at most.
    pub(super) fn add_prompts(&self, plan: &mut Plan, mut others: usize) {
        let mut budget = self.prompt_tokens(plan);
        // Shares by weight, and what one class does not need is the others'.
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

    /// The most tokens of prompts in a forward pass that has all answers under way.
    fn prompt_tokens(&self, plan: &Plan) -> usize {
        let answers = plan.feeds.len();
        let watched = |seq| self.running.get(seq).is_some_and(|s| s.priority() > Priority::Batch);
        let watched = plan.feeds.iter().any(|feed| watched(&feed.seq));
        let width = match self.deterministic {
            true => self.n_batch,
            false => self.pace.width(watched, self.n_batch),
        };
        // However many answers are under way, prompts get on.
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

    /// How far the first token is: its own, or that of one that waits for what it is to compute.
    fn distance(&self, sequence: &Sequence) -> usize {
        let others = self.running.values().filter(|other| other.awaits(sequence).is_some());
        others.chain([sequence]).map(left_to_read).min().unwrap_or(0)
    }

    /// How many tokens it can be fed: where cells can only be shared as a whole, no more than others
    /// have in common with it.
    fn wants(&self, sequence: &Sequence) -> usize {
        let wants = sequence.piece().min(sequence.until_parting());
        if !matches!(self.prefix_cache, PrefixCache::Window(_)) {
            return wants;
        }
        self.running.values().filter_map(|s| s.awaits(sequence)).fold(wants, usize::min)
    }

    /// A forward pass read these prompts: who could have been read in their place has waited.
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

/// Tokens that are left to read, less for what it has waited.
fn left_to_read(sequence: &Sequence) -> usize {
    sequence.remaining().saturating_sub(sequence.passed_by() / PATIENCE)
}

/// How much of a batch a priority gets beside others.
fn weight(priority: Priority) -> usize {
    match priority {
        Priority::Interactive => 16,
        Priority::Normal => 4,
        Priority::Batch => 1,
    }
}
