//! The seam between the batching scheduler and whatever computes: llama.cpp, or the dummy.
//!
//! The scheduler drives a [`ModelBackend`], which describes itself by a [`ModelInfo`]. Each forward
//! pass runs a [`Plan`] of one [`Feed`] per sequence and returns [`Sampled`] tokens; a draft model,
//! if there is one, answers [`DraftRequest`]s. An [`Interrupt`] lets another thread end a pass
//! early.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::{
    ErrorCode, Failure, InputKind, Message, ModelDigest, OutputKind, Parameters, Tool, needs,
};

/// A token of the model's vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub i32);

/// A sequence of the KV cache. Ids run from 0 up to, but not including, the sum of
/// [`ModelInfo::n_seq_max`] and [`ModelInfo::n_seq_spare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u32);

/// Which prefixes of a sequence another sequence can share ([`ModelBackend::copy`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PrefixCache {
    /// None: the model's state cannot be cut or shared (recurrent models), or sharing is disabled.
    #[default]
    None,
    /// All of a sequence, or any prefix of a sequence that was never longer than this many tokens.
    /// A longer one overwrites its cells from the beginning on (sliding window).
    Window(u32),
    /// Any prefix.
    Any,
}

impl<'de> serde::Deserialize<'de> for PrefixCache {
    /// A kind from a newer engine is [`PrefixCache::None`]: then nobody relies on it.
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Said {
            Word(String),
            Window { window: u32 },
            Other(serde::de::IgnoredAny),
        }
        Ok(match Said::deserialize(from)? {
            Said::Word(word) if word == "any" => Self::Any,
            Said::Window { window } => Self::Window(window),
            Said::Word(_) | Said::Other(_) => Self::None,
        })
    }
}

/// Memory that a model takes, in bytes, by purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The tensors of the model file.
    #[serde(rename = "weights_bytes")]
    pub weights: u64,
    /// The KV cache and other per-sequence state.
    #[serde(rename = "cache_bytes")]
    pub cache: u64,
    /// Compute buffers of a forward pass, logits, and the vocabulary.
    #[serde(rename = "buffers_bytes")]
    pub buffers: u64,
    /// The maximum for parked states of ended requests, which live outside the cache.
    #[serde(rename = "parked_bytes")]
    pub parked: u64,
}

impl Memory {
    /// The sum of all parts, in bytes.
    pub fn total(&self) -> u64 {
        let parts = [self.weights, self.cache, self.buffers, self.parked];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// What a loaded model is and how much it can hold.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ModelInfo {
    /// The name given in the model file, or else the file's stem.
    pub name: String,
    /// Cells in the KV cache, shared by all sequences; also the limit for a prompt and its answer
    /// together.
    pub n_ctx: u32,
    /// The maximum number of tokens in a forward pass.
    pub n_batch: u32,
    /// The maximum number of sequences in a forward pass.
    pub n_seq_max: u32,
    /// Additional sequences, which take no part in forward passes. They hold cells that later
    /// requests can reuse, and the samplers of paused or preempted requests.
    #[serde(default)]
    pub n_seq_spare: u32,
    /// The maximum number of sequences that may hold cells at once; 0 is no limit.
    #[serde(default)]
    pub n_seq_cached: u32,
    /// Which prefixes of one sequence another can share.
    #[serde(default)]
    pub prefix_cache: PrefixCache,
    /// Whether a forward pass reads only the cells of its own sequences. If it reads all cells,
    /// those of ended requests are freed while others run.
    #[serde(default)]
    pub own_cells_only: bool,
    /// The maximum number of tokens of ended requests parked in memory outside the cache; 0 if
    /// sequences cannot be saved or parking is disabled.
    #[serde(default)]
    pub n_parked: u32,
    /// The maximum number of draft tokens in a forward pass ([`Feed::drafts`]); 0 if the model's
    /// cache cannot be cut or drafts are disabled.
    #[serde(default)]
    pub n_draft_max: u32,
    /// Whether requests with repeatable answers ([`Parameters::repeatable`]) get drafts too,
    /// although wider forward passes round differently.
    #[serde(default)]
    pub draft_repeatable: bool,
    /// Whether greedy requests without a seed get drafts too.
    #[serde(default)]
    pub draft_greedy: bool,
    /// The name of the draft model, if there is one ([`ModelBackend::draft`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft_model: Option<String>,
    /// Whether a request's forward passes are the same whatever else runs, down to the number of
    /// tokens in each. Only one sequence has cells at a time, and it recomputes lost cells in the
    /// pieces in which they were first computed.
    #[serde(default)]
    pub deterministic: bool,
    /// The sampling parameters that the model file recommends.
    #[serde(default)]
    pub recommended: Parameters,
    /// Whether the model file has a chat template.
    #[serde(default)]
    pub chat_template: bool,
    /// The digest of its files. The engine fills it in, not the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<ModelDigest>,
    /// The kinds of input that it takes beside text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<InputKind>,
    /// The kinds of output that it may give beside text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputKind>,
    /// Size of the weights, in bytes.
    #[serde(default)]
    pub weight_bytes: u64,
    /// Memory allocated for the model.
    #[serde(default)]
    pub memory: Memory,
}

impl ModelInfo {
    /// Checks that the model takes these messages and tools.
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`] with the first kind that it does not take.
    pub fn takes(&self, messages: &[Message], tools: &[Tool]) -> Result<(), Failure> {
        let missing = |kind: &InputKind| *kind == InputKind::Unknown || !self.inputs.contains(kind);
        let Some(kind) = needs(messages, tools).find(missing) else { return Ok(()) };
        let inputs = self.inputs.iter().filter(|known| **known != InputKind::Unknown);
        let taken: String = inputs.map(|input| format!(" and {input}")).collect();
        let what = match kind {
            InputKind::Unknown => "parts of an unknown kind",
            kind => kind.as_str(),
        };
        let name = &self.name;
        let message = format!("model '{name}' takes no {what}: it takes text{taken}");
        Err(Failure::new(ErrorCode::Unsupported, message)
            .hint("`threadrunner ps --json` lists what loaded models take beside text: `inputs`"))
    }
}

/// Tokens to append to one sequence in a forward pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// The sequence.
    pub seq: SeqId,
    /// The position of the first token, which is the number of tokens already cached.
    pub start: u32,
    /// The tokens; at least one.
    pub tokens: Vec<TokenId>,
    /// Whether to sample a token after the last token that is not a draft.
    pub sample: bool,
    /// How many of the last tokens are drafts: guesses at what will be sampled. If a draft equals
    /// the token sampled in its place, the next token is sampled after it, and so on. The cells of
    /// rejected drafts are freed again.
    pub drafts: usize,
}

impl Feed {
    /// How many of the tokens are not drafts.
    pub fn known(&self) -> usize {
        self.tokens.len() - self.drafts
    }

    /// Whether this continues an answer rather than reads a prompt.
    pub fn decodes(&self) -> bool {
        self.sample && self.known() == 1
    }

    /// How many of the tokens keep their cells after `sampled` tokens were sampled.
    pub fn kept(&self, sampled: usize) -> usize {
        (self.known() + sampled.saturating_sub(1)).min(self.tokens.len())
    }

    /// Whether the draft at index `draft` equals the token sampled in its place.
    pub fn came_true(&self, draft: usize, sampled: &Sampled) -> bool {
        !sampled.end && self.tokens.get(self.known() + draft) == Some(&sampled.token)
    }
}

/// One forward pass: which tokens to append to which sequences.
///
/// No sequence occurs twice, and all feeds together have at most [`ModelInfo::n_batch`] tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The feeds, in batch order.
    pub feeds: Vec<Feed>,
}

impl Plan {
    /// The number of tokens in this forward pass.
    pub fn n_tokens(&self) -> usize {
        self.feeds.iter().map(|feed| feed.tokens.len()).sum()
    }
}

/// A sequence whose next tokens the draft model should guess.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftRequest {
    /// The sequence.
    pub seq: SeqId,
    /// All tokens of the sequence, including those without cells.
    pub tokens: Vec<TokenId>,
    /// How many tokens to guess; at least one.
    pub n: usize,
}

/// A draft model's reply to a [`DraftRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Draft {
    /// Its guess: at most as many tokens as requested.
    Tokens(Vec<TokenId>),
    /// It is still reading the sequence so far.
    Reading,
    /// It cannot guess in this sequence.
    Never,
}

/// A draft model's replies to a list of [`DraftRequest`]s.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drafted {
    /// One reply per request, in the same order.
    pub drafts: Vec<Draft>,
    /// How long the draft model took.
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
    /// Its text: bytes, possibly not whole characters. Empty if `end`.
    pub piece: Vec<u8>,
}

/// Why a backend could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The KV cache has no room for this forward pass. Nothing changed; a smaller pass may fit, or
    /// the same one after a `trim`.
    #[error("the KV cache has no room for this forward pass")]
    CacheFull,
    /// The forward pass was interrupted ([`Interrupt`]). Nothing changed, and the pass can be
    /// repeated.
    #[error("the forward pass was interrupted")]
    Interrupted,
    /// This request cannot be served; others can.
    #[error(transparent)]
    Request(#[from] Failure),
    /// The backend cannot go on.
    #[error("{0}")]
    Broken(String),
}

impl BackendError {
    /// The failure to report to a client.
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

/// Lets another thread end a long forward pass early.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicU8>);

/// A request was canceled.
const CANCELED: u8 = 1;
/// An interactive request arrived.
const INTERACTIVE_WAITS: u8 = 2;
/// The current forward pass includes interactive requests.
const INTERACTIVE_RUNS: u8 = 4;

impl Interrupt {
    /// Asks for an interruption because a request was canceled.
    pub fn ask(&self) {
        self.0.fetch_or(CANCELED, Ordering::AcqRel);
    }

    /// Asks for an interruption because an interactive request arrived. Has no effect on a pass
    /// that includes interactive requests itself.
    pub fn ask_for_interactive(&self) {
        self.0.fetch_or(INTERACTIVE_WAITS, Ordering::AcqRel);
    }

    /// Whether the current forward pass should end early.
    pub fn asked(&self) -> bool {
        let flags = self.0.load(Ordering::Acquire);
        flags & CANCELED != 0 || flags & (INTERACTIVE_WAITS | INTERACTIVE_RUNS) == INTERACTIVE_WAITS
    }

    /// Withdraws all requests for an interruption: the scheduler knows of their causes.
    pub fn clear(&self) {
        self.0.fetch_and(!(CANCELED | INTERACTIVE_WAITS), Ordering::AcqRel);
    }

    /// Records whether the next forward pass includes interactive requests.
    pub fn next_is_interactive(&self, interactive: bool) {
        match interactive {
            true => self.0.fetch_or(INTERACTIVE_RUNS, Ordering::AcqRel),
            false => self.0.fetch_and(!INTERACTIVE_RUNS, Ordering::AcqRel),
        };
    }
}

/// A model that computes. Synchronous, and owned by one thread.
///
/// For each open sequence, a backend keeps a sampler and the cached tokens. It never decides which
/// sequence goes next; that is the scheduler's job.
pub trait ModelBackend {
    /// Describes the loaded model.
    fn info(&self) -> &ModelInfo;

    /// Renders a conversation as prompt text with the model's chat template, ending where the
    /// assistant's turn begins. The model takes what the messages and tools consist of
    /// ([`ModelInfo::takes`]).
    ///
    /// # Errors
    /// [`ErrorCode::ChatTemplate`] if the template raises an error or cannot be rendered.
    fn render_chat(&self, messages: &[Message], tools: &[Tool]) -> Result<String, BackendError>;

    /// Tokenizes `text`. Recognizes control tokens written out in the text, and adds the
    /// begin-of-sequence token if the model wants one and the text lacks it.
    ///
    /// # Errors
    /// If the text cannot be tokenized.
    fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, BackendError>;

    /// Opens `seq`, empty, with its own sampler. `params` is complete: every field that has a
    /// default is set. `prompt` is what will be fed, for samplers that look back.
    ///
    /// # Errors
    /// If the sampler cannot be created.
    fn open(
        &mut self,
        seq: SeqId,
        params: &Parameters,
        prompt: &[TokenId],
    ) -> Result<(), BackendError>;

    /// Runs one forward pass and appends the sampled tokens to `sampled`, in the order of the feeds
    /// that ask for them: one token per feed, plus one for each accepted draft.
    ///
    /// # Errors
    /// [`BackendError::CacheFull`], [`BackendError::Interrupted`] and [`BackendError::Request`]
    /// leave everything unchanged. After the last of them, the scheduler tries each sequence alone
    /// to find the one at fault.
    fn forward(&mut self, plan: &Plan, sampled: &mut Vec<Sampled>) -> Result<(), BackendError>;

    /// Guesses the next tokens of each sequence, in the order of `requests`, and changes nothing
    /// else. A draft model that is out of resources replies [`Draft::Never`]. Called only if there
    /// is a draft model ([`ModelInfo::draft_model`]).
    fn draft(&mut self, requests: &[DraftRequest]) -> Drafted {
        Drafted { drafts: vec![Draft::Never; requests.len()], took: Duration::ZERO }
    }

    /// Lets `interrupt` end forward passes that are long enough to be worth it, with
    /// [`BackendError::Interrupted`]. Never interrupts two passes in a row, so work advances
    /// however often an interruption is asked for. A backend with short passes may ignore it.
    fn listen_to(&mut self, interrupt: Interrupt) {
        drop(interrupt);
    }

    /// Makes `to` begin with the first `tokens` tokens of `from`, sharing their cells; nothing is
    /// computed. Whatever `to` had cached is freed first; its sampler is unchanged.
    ///
    /// # Errors
    /// [`BackendError::Request`] if the cells cannot be shared; `to` then has nothing cached.
    fn copy(&mut self, from: SeqId, to: SeqId, tokens: u32) -> Result<(), BackendError>;

    /// Frees all but the first `keep` tokens of `seq`; its sampler is unchanged. Every model
    /// supports a `keep` of 0.
    ///
    /// # Errors
    /// If this model's cache cannot be cut there (recurrent, sliding window).
    fn trim(&mut self, seq: SeqId, keep: u32) -> Result<(), BackendError>;

    /// Frees `seq` and its sampler.
    fn close(&mut self, seq: SeqId);

    /// Everything besides the model file that saved sequences depend on. A saved sequence can be
    /// restored only while this text is unchanged. `None` if sequences cannot be saved at all.
    fn state_format(&self) -> Option<String> {
        None
    }

    /// Saves everything `seq` has cached, except its sampler, for [`ModelBackend::restore`].
    /// Returns `None` if that is more than `most` bytes or cannot be saved at all.
    ///
    /// # Errors
    /// If saving fails; `seq` is unchanged.
    fn save(&mut self, seq: SeqId, most: usize) -> Result<Option<Vec<u8>>, BackendError> {
        let _ = (seq, most);
        Ok(None)
    }

    /// Makes `seq` begin with what [`ModelBackend::save`] returned for a sequence of `tokens`
    /// tokens. Whatever it had cached is freed first; its sampler is unchanged.
    ///
    /// # Errors
    /// [`BackendError::Request`] if the state cannot be restored; `seq` then has nothing cached.
    fn restore(&mut self, seq: SeqId, tokens: u32, state: &[u8]) -> Result<(), BackendError> {
        let _ = (seq, tokens, state);
        Err(Failure::new(ErrorCode::Internal, "this backend cannot restore sequences").into())
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
