//! The seam between the batching scheduler and what computes: llama.cpp, or the dummy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::{ErrorCode, Failure, Message, Parameters};

/// A token of the model's vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub i32);

/// One sequence of the KV cache, from 0 to [`ModelInfo::n_seq_max`] and [`ModelInfo::n_seq_spare`]
/// together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u32);

/// From where on the cells of one sequence can be shared with another ([`ModelBackend::copy`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrefixCache {
    /// Never: what the model keeps of a text cannot be cut and is not shared (recurrent models), or
    /// nobody wants it.
    #[default]
    None,
    /// All cells of a sequence, or some of one that never was longer than this many tokens:
    /// the cells of a longer one are overwritten from its beginning on (sliding window).
    Window(u32),
    /// Any first tokens.
    Any,
}

/// Bytes that a model takes, by what for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The model file's tensors.
    #[serde(rename = "weights_bytes")]
    pub weights: u64,
    /// The KV cache, and what else is kept of each sequence.
    #[serde(rename = "cache_bytes")]
    pub cache: u64,
    /// What a forward pass computes in, logits, the vocabulary.
    #[serde(rename = "buffers_bytes")]
    pub buffers: u64,
    /// What ended requests leave beside the cache, at most.
    #[serde(rename = "parked_bytes")]
    pub parked: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        let parts = [self.weights, self.cache, self.buffers, self.parked];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// What a loaded model is and can hold.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ModelInfo {
    /// The name in the model file, else the file's stem.
    pub name: String,
    /// Cells of the KV cache, shared by all sequences: the longest prompt and answer together.
    pub n_ctx: u32,
    /// The most tokens in one forward pass.
    pub n_batch: u32,
    /// The most sequences in one forward pass.
    pub n_seq_max: u32,
    /// Further sequences, which are in no forward pass: they keep cells for those who will ask
    /// for the same again, and the samplers of those who were made to wait.
    #[serde(default)]
    pub n_seq_spare: u32,
    /// The most sequences that may have cells at once; 0 is all of them.
    #[serde(default)]
    pub n_seq_cached: u32,
    /// Which cells of one sequence another can share.
    #[serde(default)]
    pub prefix_cache: PrefixCache,
    /// Whether a forward pass looks at no cells but those of its own sequences. Where it looks at all,
    /// those of ended requests are taken while others run.
    #[serde(default)]
    pub own_cells_only: bool,
    /// The most tokens of ended requests that are kept in memory beside the cache; 0 where a
    /// sequence cannot be saved, or nobody wants it.
    #[serde(default)]
    pub n_parked: u32,
    /// The most draft tokens in a forward pass ([`Feed::drafts`]); 0 where there can be none: the
    /// model's cache cannot be cut, or nobody wants them.
    #[serde(default)]
    pub n_draft_max: u32,
    /// Whether there are drafts also for requests that are to get the same answer again
    /// ([`Parameters::repeatable`]), where wider forward passes round otherwise.
    #[serde(default)]
    pub draft_repeatable: bool,
    /// Whether there are drafts also for greedy requests without a seed.
    #[serde(default)]
    pub draft_greedy: bool,
    /// The name of the draft model, where there is one ([`ModelBackend::draft`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft_model: Option<String>,
    /// Whether the forward passes of a request are the same whatever else there is to do, down to
    /// how many tokens each has: one sequence has cells at a time, and computes again what it lost
    /// in the pieces in which it was computed first.
    #[serde(default)]
    pub deterministic: bool,
    /// What the model file recommends for sampling.
    #[serde(default)]
    pub recommended: Parameters,
    /// Whether the model file has a chat template.
    #[serde(default)]
    pub chat_template: bool,
    /// Bytes of the weights.
    #[serde(default)]
    pub weight_bytes: u64,
    /// Bytes that were allocated for it.
    #[serde(default)]
    pub memory: Memory,
}

/// Tokens to append to one sequence in a forward pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// The sequence.
    pub seq: SeqId,
    /// The position of the first token: how many the sequence has cached already.
    pub start: u32,
    /// The tokens, at least one.
    pub tokens: Vec<TokenId>,
    /// Whether to sample a token after the last of them that is no draft.
    pub sample: bool,
    /// How many of the last tokens are drafts: a guess at what will be sampled. Where a draft turns
    /// out to be what was sampled, the next token is sampled after it, and so on; the cells of
    /// those that did not come true are forgotten again.
    pub drafts: usize,
}

impl Feed {
    /// How many of the tokens are no drafts.
    pub fn known(&self) -> usize {
        self.tokens.len() - self.drafts
    }

    /// Whether it goes on with an answer, and does not read a prompt.
    pub fn decodes(&self) -> bool {
        self.sample && self.known() == 1
    }

    /// How many of the tokens have cells once so many were sampled.
    pub fn kept(&self, sampled: usize) -> usize {
        (self.known() + sampled.saturating_sub(1)).min(self.tokens.len())
    }

    /// Whether this draft, counted from 0 on, is what was sampled in its place.
    pub fn came_true(&self, draft: usize, sampled: &Sampled) -> bool {
        !sampled.end && self.tokens.get(self.known() + draft) == Some(&sampled.token)
    }
}

/// One forward pass: what to append to which sequences.
///
/// No sequence occurs twice, and the tokens of all feeds together are at most
/// [`ModelInfo::n_batch`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The feeds, in batch order.
    pub feeds: Vec<Feed>,
}

impl Plan {
    /// Tokens in this forward pass.
    pub fn n_tokens(&self) -> usize {
        self.feeds.iter().map(|feed| feed.tokens.len()).sum()
    }
}

/// A sequence for which the draft model is to guess what will be sampled next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftRequest {
    /// The sequence.
    pub seq: SeqId,
    /// All of its tokens, also those that it has no cells of.
    pub tokens: Vec<TokenId>,
    /// How many tokens to guess, at least one.
    pub n: usize,
}

/// What a draft model says to a [`DraftRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Draft {
    /// Its guess: some tokens, at most as many as were asked for.
    Tokens(Vec<TokenId>),
    /// It has to read what was said so far, and has not come to the end.
    Reading,
    /// It cannot guess in this sequence.
    Never,
}

/// What a draft model says to some [`DraftRequest`]s.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drafted {
    /// To each of them.
    pub drafts: Vec<Draft>,
    /// How long that took.
    pub took: Duration,
}

/// A token that a forward pass sampled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sampled {
    /// The sequence it belongs to.
    pub seq: SeqId,
    /// The token.
    pub token: TokenId,
    /// Whether it ends the model's turn.
    pub end: bool,
    /// Its text: bytes, not always whole characters. Empty when `end`.
    pub piece: Vec<u8>,
}

/// Why a backend could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The KV cache has no room for this forward pass; nothing was changed, and a smaller one, or
    /// the same one after a `trim`, may fit.
    #[error("the KV cache has no room for this forward pass")]
    CacheFull,
    /// The forward pass was interrupted ([`Interrupt`]); nothing was changed, and it may be asked
    /// for again.
    #[error("the forward pass was interrupted")]
    Interrupted,
    /// The request cannot be served, others can.
    #[error(transparent)]
    Request(#[from] Failure),
    /// The backend is in no state to go on.
    #[error("{0}")]
    Broken(String),
}

impl BackendError {
    /// What a client is told.
    pub fn into_failure(self) -> Failure {
        match self {
            Self::CacheFull | Self::Interrupted => {
                Failure::new(ErrorCode::Inference, self.to_string())
            }
            Self::Request(failure) => failure,
            Self::Broken(message) => Failure::new(ErrorCode::Inference, message),
        }
    }
}

/// By which another thread ends a long forward pass early.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicU8>);

/// Somebody was canceled.
const CANCELED: u8 = 1;
/// An interactive request has come.
const INTERACTIVE_WAITS: u8 = 2;
/// The forward pass that is running has interactive requests.
const INTERACTIVE_RUNS: u8 = 4;

impl Interrupt {
    /// Asks for it, because somebody was canceled.
    pub fn ask(&self) {
        self.0.fetch_or(CANCELED, Ordering::AcqRel);
    }

    /// Asks for it, because an interactive request has come; one that runs is not interrupted.
    pub fn ask_for_interactive(&self) {
        self.0.fetch_or(INTERACTIVE_WAITS, Ordering::AcqRel);
    }

    /// Whether somebody has asked for it.
    pub fn asked(&self) -> bool {
        let flags = self.0.load(Ordering::Acquire);
        flags & CANCELED != 0 || flags & (INTERACTIVE_WAITS | INTERACTIVE_RUNS) == INTERACTIVE_WAITS
    }

    /// Takes the questions back: what they were about is known.
    pub fn clear(&self) {
        self.0.fetch_and(!(CANCELED | INTERACTIVE_WAITS), Ordering::AcqRel);
    }

    /// Says whether the next forward pass has interactive requests.
    pub fn next_is_interactive(&self, interactive: bool) {
        match interactive {
            true => self.0.fetch_or(INTERACTIVE_RUNS, Ordering::AcqRel),
            false => self.0.fetch_and(!INTERACTIVE_RUNS, Ordering::AcqRel),
        };
    }
}

/// What computes. Synchronous, and owned by one thread.
///
/// A backend keeps, for each open sequence, a sampler and the cached tokens. It decides nothing
/// about who goes when: that is the scheduler's.
pub trait ModelBackend {
    /// What was loaded.
    fn info(&self) -> &ModelInfo;

    /// The prompt text of a conversation, through the model's chat template, ending where the
    /// assistant is to speak.
    ///
    /// # Errors
    /// [`ErrorCode::ChatTemplate`] when the template refuses or cannot be rendered.
    fn render_chat(&self, messages: &[Message]) -> Result<String, BackendError>;

    /// The tokens of `text`. Control tokens written out in the text are recognised, and the
    /// begin-of-sequence token is added where the model asks for one and the text lacks it.
    ///
    /// # Errors
    /// When the text cannot be tokenized.
    fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, BackendError>;

    /// Opens `seq`, empty, with a sampler of its own. `params` is complete: every field that has
    /// a default is set. `prompt` is what will be fed, for samplers that look back.
    ///
    /// # Errors
    /// When the sampler cannot be made.
    fn open(
        &mut self,
        seq: SeqId,
        params: &Parameters,
        prompt: &[TokenId],
    ) -> Result<(), BackendError>;

    /// Runs one forward pass and appends what was sampled to `sampled`, in the order of the feeds
    /// that asked for it: of each one token, and one more for each draft that came true.
    ///
    /// # Errors
    /// [`BackendError::CacheFull`] and [`BackendError::Request`] leave everything as it was: after
    /// the latter the scheduler tries each sequence alone, to find whose fault it is.
    fn forward(&mut self, plan: &Plan, sampled: &mut Vec<Sampled>) -> Result<(), BackendError>;

    /// Guesses what will be sampled next in each of these sequences, in their order. Nothing else
    /// changes by it; a draft model that is at the end of its means says [`Draft::Never`]. Only asked
    /// where there is one ([`ModelInfo::draft_model`]).
    fn draft(&mut self, requests: &[DraftRequest]) -> Drafted {
        Drafted { drafts: vec![Draft::Never; requests.len()], took: Duration::ZERO }
    }

    /// Lets `interrupt` end forward passes that are long enough to be worth it, with
    /// [`BackendError::Interrupted`]. Not two in a row, so that work goes on however often
    /// somebody asks. A backend whose passes are short need not listen.
    fn listen_to(&mut self, interrupt: Interrupt) {
        drop(interrupt);
    }

    /// Lets `to` begin with the first `tokens` tokens of `from`, in the same cells: nothing is
    /// computed. What `to` had cached is forgotten first; its sampler goes on as it is.
    ///
    /// # Errors
    /// [`BackendError::Request`] when this cannot be; `to` has nothing cached then.
    fn copy(&mut self, from: SeqId, to: SeqId, tokens: u32) -> Result<(), BackendError>;

    /// Forgets all but the first `keep` tokens of `seq`; its sampler goes on as it is. None kept
    /// is possible with every model.
    ///
    /// # Errors
    /// When this model's cache cannot be cut there (recurrent, sliding window).
    fn trim(&mut self, seq: SeqId, keep: u32) -> Result<(), BackendError>;

    /// Forgets `seq` and its sampler.
    fn close(&mut self, seq: SeqId);

    /// What a saved sequence depends on beside the model file: a text that is another where one
    /// that was saved then cannot be restored now. `None` where sequences cannot be saved at all.
    fn state_format(&self) -> Option<String> {
        None
    }

    /// All that `seq` has cached, for [`ModelBackend::restore`]; its sampler is no part of it.
    /// `None` where that is more than `most` bytes.
    ///
    /// # Errors
    /// When the sequence cannot be saved; it goes on as it is.
    fn save(&mut self, seq: SeqId, most: usize) -> Result<Option<Vec<u8>>, BackendError> {
        let _ = (seq, most);
        Ok(None)
    }

    /// Lets `seq` begin with what [`ModelBackend::save`] returned for a sequence of so many tokens;
    /// its sampler goes on as it is. What it had cached is forgotten first.
    ///
    /// # Errors
    /// [`BackendError::Request`] when this cannot be; `seq` has nothing cached then.
    fn restore(&mut self, seq: SeqId, tokens: u32, state: &[u8]) -> Result<(), BackendError> {
        let _ = (seq, tokens, state);
        Err(Failure::new(ErrorCode::Internal, "this backend restores nothing").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interactive_request_interrupts_others_and_not_its_like() {
        let interrupt = Interrupt::default();
        interrupt.ask_for_interactive();
        assert!(interrupt.asked());
        interrupt.next_is_interactive(true);
        assert!(!interrupt.asked());
        interrupt.ask();
        assert!(interrupt.asked());
        interrupt.clear();
        interrupt.next_is_interactive(false);
        assert!(!interrupt.asked());
    }
}
