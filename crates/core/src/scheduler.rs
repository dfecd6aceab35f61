//! Who goes into the next forward pass: continuous batching, as a value.
//!
//! The scheduler decides and waits for nothing. A loop drives it:
//!
//! ```text
//! submit / cancel            requests join and leave between steps
//! plan   -> Step             what to do now
//! Step::carry_out -> Outcome the backend does it
//! apply  -> Output           what the clients are to hear
//! ```
//!
//! Each step has one token for every sequence that is decoding, and prompt chunks in what remains
//! of the time that it may take (`pace`): those of each priority by its weight, and within one the
//! prompt with the least left to read first (`reading`).
//!
//! All sequences share the cells of one KV cache; `tree` knows which. A prompt begins with the
//! longest prefix that any sequence has cached, whether its request runs, waits or has
//! ended; and one that begins like another that is being read waits for that one to get to where
//! they part. So a prefix is computed once.
//!
//! Where a pass does nothing but decode, a sequence may be fed guesses at its next tokens with its
//! last one; those that turn out to be what is sampled come at once (`draft`). They are looked up,
//! or computed by a draft model (`draft_model`).
//!
//! A request is admitted while its prompt and a little of its answer fit beside what the running
//! ones are committed to. An interactive one does not wait for the others: the least of them are
//! paused. Cells that are needed are taken from ended requests first, least recently used before
//! others, then from paused ones, and where the running ones outgrow the cache, from the
//! least of these (lowest priority, then youngest). Who loses cells computes them again later,
//! while its sampler and the text it has already sent stay. The first in rank never loses
//! its cells, and alone it fits, so there is always one that proceeds.
//!
//! What is taken from ended requests is copied to memory beside the cache, and back when it is asked
//! for again. Where forward passes look at all cells, ended requests keep none while others run
//! (`parking`).
//!
//! Of a session, which is a conversation that goes on with further requests, the cells are saved
//! and restored (`saving`), so that it outlives the cache.

mod apply;
mod draft;
mod draft_model;
mod drafting;
mod pace;
mod parking;
mod plan;
mod queue;
mod reading;
mod repetition;
mod room;
mod saving;
mod sequence;
mod sharing;
mod step;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{ErrorCode, Failure, FinishReason, ModelInfo, PrefixCache, SeqId, Usage};
use draft::Costs;
use draft_model::{GuessCosts, Probes, Skill};
use pace::Pace;
use parking::Parked;
use queue::{Queue, Waiting};
use saving::Unsaved;
use sequence::Sequence;
use tree::Tree;

pub use parking::ParkedStates;
pub use saving::{SavedStates, Session};
pub use sequence::Request;
pub use step::{Change, Outcome, Step};

/// What a client is to hear of its request.
///
/// Of each accepted request there is exactly one [`Output::Finished`] or [`Output::Failed`], and
/// nothing after it.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// A prompt that takes more than one forward pass is being read.
    Prefill {
        /// The request.
        id: u64,
        /// Tokens read.
        done: u32,
        /// Tokens to read.
        total: u32,
    },
    /// The first token was generated. Its text may come later.
    Started {
        /// The request.
        id: u64,
    },
    /// More of the answer, in whole characters.
    Text {
        /// The request.
        id: u64,
        /// The text.
        text: String,
    },
    /// The answer is complete.
    Finished {
        /// The request.
        id: u64,
        /// Why it ended.
        finish_reason: FinishReason,
        /// Tokens.
        usage: Usage,
        /// Tokens that were guessed at.
        drafts: Drafts,
    },
    /// The request cannot be answered.
    Failed {
        /// The request.
        id: u64,
        /// Why.
        failure: Failure,
    },
}

/// Tokens of an answer that were guessed at before they were sampled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drafts {
    /// How many were computed.
    pub drafted: u32,
    /// How many of them came true.
    pub accepted: u32,
}

/// Decides who goes into the next forward pass.
#[derive(Debug)]
pub struct Scheduler {
    /// Cells of the KV cache.
    n_ctx: usize,
    /// The most tokens in a forward pass.
    n_batch: usize,
    /// The most sequences in a forward pass.
    most_running: usize,
    /// The most sequences that may have cells.
    most_holding: usize,
    prefix_cache: PrefixCache,
    /// Whether cells cost nothing to those who do not look at them.
    own_cells_only: bool,
    /// The most drafts in a forward pass.
    most_drafts: usize,
    /// Whether requests that are to get the same answer again have drafts too.
    draft_repeatable: bool,
    /// Whether greedy ones without a seed have.
    draft_greedy: bool,
    /// Whether there is a draft model, how well it guesses, and what that takes.
    draft_model: bool,
    skill: Skill,
    guess_costs: GuessCosts,
    probes: Probes,
    /// Whether there was a forward pass that only decoded, without drafts.
    decoded_plainly: bool,
    /// What forward passes take.
    costs: Costs,
    /// The same of those that read prompts.
    pace: Pace,
    /// Whose turn is next, where not all answers take part in a forward pass.
    turn: usize,
    /// Whether the last forward pass found the cache full because of its drafts.
    no_drafts: bool,
    /// Whether each request's forward passes are to be the same whatever else there is to do.
    deterministic: bool,
    /// Cells that admission counts on: `n_ctx`, or what the backend turned out to have.
    capacity: usize,
    queue: Queue,
    running: BTreeMap<SeqId, Sequence>,
    tree: Tree,
    /// Sequences that hold nothing, neither cells nor the sampler of one that waits.
    free: BTreeSet<SeqId>,
    /// What the backend is to do before the next forward pass.
    changes: Vec<Change>,
    /// The most prompt tokens in the next forward pass, after one found the cache full.
    chunk_limit: Option<usize>,
    /// The sequences of a forward pass that was refused for the sake of one of them; each goes
    /// alone until that one is found.
    suspects: VecDeque<SeqId>,
    /// Sessions of which the cache has more than was saved, the last one last.
    unsaved: Vec<Unsaved>,
    parked: Parked,
    arrivals: u64,
    broken: Option<Failure>,
}

impl Scheduler {
    /// A scheduler for a backend that holds this much.
    pub fn new(info: &ModelInfo) -> Self {
        let n_batch = info.n_batch.max(1);
        // A step has a token for each decoding sequence, so no more may run than fit a batch.
        let most_running = info.n_seq_max.clamp(1, n_batch);
        let sequences = info.n_seq_max.max(1) + info.n_seq_spare;
        let most_holding = match info.n_seq_cached {
            0 => sequences,
            some => some.max(most_running),
        };
        Self {
            n_ctx: info.n_ctx as usize,
            n_batch: n_batch as usize,
            most_running: most_running as usize,
            most_holding: most_holding as usize,
            prefix_cache: info.prefix_cache,
            own_cells_only: info.own_cells_only,
            most_drafts: info.n_draft_max as usize,
            draft_repeatable: info.draft_repeatable,
            draft_greedy: info.draft_greedy,
            draft_model: info.draft_model.is_some(),
            skill: Skill::default(),
            guess_costs: GuessCosts::default(),
            probes: Probes::default(),
            decoded_plainly: false,
            costs: Costs::default(),
            pace: Pace::default(),
            turn: 0,
            no_drafts: false,
            deterministic: info.deterministic,
            capacity: info.n_ctx as usize,
            queue: Queue::default(),
            running: BTreeMap::new(),
            tree: Tree::default(),
            free: (0..sequences).map(SeqId).collect(),
            changes: Vec::new(),
            chunk_limit: None,
            suspects: VecDeque::new(),
            unsaved: Vec::new(),
            parked: Parked::new(info),
            arrivals: 0,
            broken: None,
        }
    }

    /// Takes a request in.
    ///
    /// # Errors
    /// The request is not accepted, and no [`Output`] will tell of it: an empty prompt, one with
    /// no room for an answer in the context, or a backend that has broken down.
    pub fn submit(&mut self, request: Request) -> Result<(), Failure> {
        if let Some(failure) = &self.broken {
            return Err(failure.clone());
        }
        if request.prompt.is_empty() {
            return Err(Failure::new(ErrorCode::EmptyPrompt, "the prompt is empty")
                .hint("Give a prompt with at least one word."));
        }
        if request.prompt.len() >= self.n_ctx {
            let message = format!(
                "the prompt is {} tokens long, but the context holds {} tokens, answer included",
                request.prompt.len(),
                self.n_ctx
            );
            return Err(Failure::new(ErrorCode::ContextExceeded, message)
                .hint("Shorten the prompt, or give the model a larger context."));
        }
        self.arrivals += 1;
        let drafts = self.may_have_drafts(&request.params);
        let mut sequence = Sequence::new(request, self.arrivals);
        if drafts {
            sequence = sequence.drafting(self.draft_model);
        }
        if self.deterministic {
            sequence = sequence.in_the_same_pieces();
        }
        self.queue.push(Waiting { sequence, kept: None });
        Ok(())
    }

    /// Ends a request, wherever it stands. Returns whether there was one.
    pub fn cancel(&mut self, id: u64, out: &mut Vec<Output>) -> bool {
        let running = self.running.iter().find(|(_, sequence)| sequence.id == id);
        let (seq, sequence) = if let Some((&seq, _)) = running {
            (Some(seq), self.running.remove(&seq))
        } else {
            match self.queue.remove(id) {
                Some(waiting) => (waiting.kept, Some(waiting.sequence)),
                None => (None, None),
            }
        };
        let Some(sequence) = sequence else { return false };
        if let Some(seq) = seq {
            self.note_unsaved(seq, &sequence);
            self.keep(seq);
        }
        out.push(sequence.finished(FinishReason::Canceled));
        true
    }

    /// Whether there is nothing to do until the next [`Scheduler::submit`].
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queue.is_empty() && self.changes.is_empty()
    }

    /// Why the backend cannot go on, if it broke down. Every request has failed then.
    pub fn broken(&self) -> Option<&Failure> {
        self.broken.as_ref()
    }

    /// Requests in the batch.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Requests that wait, also those that were paused or preempted.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Cells of the KV cache in use, also those of requests that have ended.
    pub fn cells_used(&self) -> usize {
        self.tree.cells()
    }

    fn cells_free(&self) -> usize {
        self.n_ctx.saturating_sub(self.cells_used())
    }

    /// Gives a sequence back, to be forgotten by the backend before it is used again.
    fn close(&mut self, seq: SeqId) {
        self.tree.close(seq);
        self.changes.push(Change::Close { seq });
        self.free.insert(seq);
    }
}
