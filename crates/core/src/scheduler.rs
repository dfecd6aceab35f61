//! Continuous batching, as a value: decides which sequences go into the next forward pass.
//!
//! The scheduler only decides and never waits. A loop drives it:
//!
//! ```text
//! submit / cancel            requests join and leave between steps
//! plan   -> Step             what to do now
//! Step::carry_out -> Outcome the backend does it
//! apply  -> Output           what to tell the clients
//! ```
//!
//! Each step has one token for every sequence that is decoding. Chunks of prompts fill what remains
//! of the time allowed for a pass (`pace`): each priority gets a share by its weight, and within a
//! priority the prompt with the least left to read goes first (`reading`).
//!
//! All sequences share the cells of one KV cache; `tree` records which sequence holds which cells.
//! A prompt starts with the longest prefix that any sequence has cached, whether that sequence's
//! request is running, waiting or ended. A prompt that begins like another one that is being read
//! waits until the other reaches the point where the two diverge. So a shared prefix is computed
//! once.
//!
//! In a pass that only decodes, a sequence may be fed guesses at its next tokens along with its
//! last one; guesses that equal the sampled tokens save a pass each (`draft`, `drafting`). Guesses
//! are looked up in the sequence itself, or computed by a draft model (`draft_model`).
//!
//! A request is admitted if its prompt and a little of its answer fit beside what the running
//! requests are committed to. An interactive request does not wait for others: the lowest-ranked of
//! them are paused. When cells run out (`room`), they are taken first from ended requests, least
//! recently used first; then from paused requests; and if the running requests outgrow the cache,
//! from the lowest-ranked of these (lowest priority, then youngest). A request that loses its cells
//! recomputes them later; it keeps its sampler and the text already sent. The highest-ranked
//! request never loses its cells and fits the cache alone, so there is always one that makes
//! progress.
//!
//! Cells taken from ended requests are copied to memory outside the cache, and back when a prompt
//! needs them again. If forward passes read all cells, ended requests keep none while others run
//! (`parking`).
//!
//! The cells of a session, a conversation that continues over several requests, are saved and
//! restored (`saving`), so that they outlive the cache.

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

use crate::engine_protocol::EngineRequestId;
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

/// Something to tell a client about its request.
///
/// Each accepted request gets exactly one [`Output::Finished`] or [`Output::Failed`], and nothing
/// after it.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Progress in reading a prompt that takes more than one forward pass.
    Prefill {
        /// The request.
        id: EngineRequestId,
        /// Tokens read.
        done: u32,
        /// Tokens in the prompt.
        total: u32,
    },
    /// The first token was generated. Its text may follow later.
    Started {
        /// The request.
        id: EngineRequestId,
    },
    /// More text of the answer, in whole characters.
    Text {
        /// The request.
        id: EngineRequestId,
        /// The text.
        text: String,
    },
    /// The answer is complete.
    Finished {
        /// The request.
        id: EngineRequestId,
        /// Why it ended.
        finish_reason: FinishReason,
        /// Token counts.
        usage: Usage,
        /// Counts of drafts.
        drafts: Drafts,
    },
    /// The request cannot be answered.
    Failed {
        /// The request.
        id: EngineRequestId,
        /// The reason.
        failure: Failure,
    },
}

/// Counts of an answer's drafts: tokens guessed before they were sampled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drafts {
    /// How many drafts were computed.
    pub drafted: u32,
    /// How many of them were accepted.
    pub accepted: u32,
}

/// Plans forward passes for many requests at once; see the module page.
#[derive(Debug)]
pub struct Scheduler {
    /// The number of cells in the KV cache.
    n_ctx: usize,
    /// The maximum number of tokens in a forward pass.
    n_batch: usize,
    /// The maximum number of sequences in a forward pass.
    most_running: usize,
    /// The maximum number of sequences that may hold cells.
    most_holding: usize,
    prefix_cache: PrefixCache,
    /// Whether forward passes read only the cells of their own sequences, so that other cells cost
    /// nothing.
    own_cells_only: bool,
    /// The maximum number of drafts in a forward pass.
    most_drafts: usize,
    /// Whether requests with repeatable answers get drafts too.
    draft_repeatable: bool,
    /// Whether greedy requests without a seed get drafts too.
    draft_greedy: bool,
    /// Whether there is a draft model; then how well it guesses, what its guesses cost, and when to
    /// try it.
    draft_model: bool,
    skill: Skill,
    guess_costs: GuessCosts,
    probes: Probes,
    /// Whether any forward pass so far only decoded, without drafts.
    decoded_plainly: bool,
    /// What forward passes that only decode cost.
    costs: Costs,
    /// What forward passes that read prompts cost.
    pace: Pace,
    /// Where the next turn starts, when not all answers fit beside an interactive request.
    turn: usize,
    /// Whether the last forward pass failed and had drafts; then the next one has none.
    no_drafts: bool,
    /// Whether each request's forward passes must be the same whatever else runs.
    deterministic: bool,
    /// The cells that admission counts on: `n_ctx`, or fewer if the backend turned out to have
    /// fewer.
    capacity: usize,
    queue: Queue,
    running: BTreeMap<SeqId, Sequence>,
    tree: Tree,
    /// Sequences that hold neither cells nor the sampler of a waiting request.
    free: BTreeSet<SeqId>,
    /// Changes for the backend to make before the next forward pass.
    changes: Vec<Change>,
    /// The maximum number of prompt tokens in the next forward pass, after one found the cache
    /// full.
    chunk_limit: Option<usize>,
    /// The sequences of a forward pass that failed because of one of them. Each runs alone until
    /// that one is found.
    suspects: VecDeque<SeqId>,
    /// Sessions with more in the cache than was saved, latest last.
    unsaved: Vec<Unsaved>,
    parked: Parked,
    arrivals: u64,
    broken: Option<Failure>,
}

impl Scheduler {
    /// A scheduler for a backend with these limits.
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

    /// Accepts a request.
    ///
    /// # Errors
    /// If the prompt is empty or leaves no room for an answer in the context, or if the backend has
    /// broken down. The request is then not accepted and gets no [`Output`].
    pub fn submit(&mut self, request: Request) -> Result<(), Failure> {
        if let Some(failure) = &self.broken {
            return Err(failure.clone());
        }
        if request.prompt.is_empty() {
            return Err(Failure::new(ErrorCode::EmptyPrompt, "the prompt is empty")
                .hint("give a prompt with at least one word"));
        }
        if request.prompt.len() >= self.n_ctx {
            let message = format!(
                "the prompt is {} tokens long, but the context holds {} tokens, answer included",
                request.prompt.len(),
                self.n_ctx
            );
            return Err(Failure::new(ErrorCode::ContextExceeded, message)
                .hint("shorten the prompt, or give the model a larger context"));
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

    /// Ends a request, in whatever state it is. Returns whether there was one.
    pub fn cancel(&mut self, id: EngineRequestId, out: &mut Vec<Output>) -> bool {
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

    /// Why the backend cannot continue, if it broke down. Every request has then failed.
    pub fn broken(&self) -> Option<&Failure> {
        self.broken.as_ref()
    }

    /// The number of requests in the batch.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// The number of requests that wait, including paused and preempted ones.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Cells of the KV cache in use, including those of ended requests.
    pub fn cells_used(&self) -> usize {
        self.tree.cells()
    }

    fn cells_free(&self) -> usize {
        self.n_ctx.saturating_sub(self.cells_used())
    }

    /// Frees a sequence; the backend closes it before it is used again.
    fn close(&mut self, seq: SeqId) {
        self.tree.close(seq);
        self.changes.push(Change::Close { seq });
        self.free.insert(seq);
    }
}
