//! One request on its way through the batch.

use std::cmp::Reverse;

use super::Output;
use crate::text::{StopMatcher, Utf8Stream};
use crate::{Failure, Feed, FinishReason, Parameters, Priority, Sampled, SeqId, TokenId, Usage};

/// A request, tokenized.
#[derive(Debug, Clone)]
pub struct Request {
    /// Unique among those that have not ended.
    pub id: u64,
    /// The prompt.
    pub prompt: Vec<TokenId>,
    /// How to answer; complete, as [`crate::ModelBackend::open`] asks.
    pub params: Parameters,
    /// Who goes first.
    pub priority: Priority,
}

/// A request and what has become of it so far.
///
/// Reading a prompt, decoding and computing again after a preemption are one and the same: feed
/// the tokens that are not cached, and sample after the last.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: u64,
    /// Counts submissions: the lower, the older.
    pub(super) arrival: u64,
    /// The priority, raised by each preemption, so that nobody is preempted for ever.
    pub(super) standing: Priority,
    params: Parameters,
    /// The prompt and the answer.
    tokens: Vec<TokenId>,
    prompt_len: usize,
    /// How many of the tokens are in the KV cache.
    cached: usize,
    utf8: Utf8Stream,
    stops: StopMatcher,
}

impl Sequence {
    pub(super) fn new(request: Request, arrival: u64) -> Self {
        Self {
            id: request.id,
            arrival,
            standing: request.priority,
            stops: StopMatcher::new(&request.params.stop),
            params: request.params,
            prompt_len: request.prompt.len(),
            tokens: request.prompt,
            cached: 0,
            utf8: Utf8Stream::default(),
        }
    }

    /// The least of all is the first to be preempted: low priority, then late arrival.
    pub(super) fn rank(&self) -> (Priority, Reverse<u64>) {
        (self.standing, Reverse(self.arrival))
    }

    pub(super) fn params(&self) -> &Parameters {
        &self.params
    }

    pub(super) fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    pub(super) fn cached(&self) -> usize {
        self.cached
    }

    /// Whether a token of the answer was generated.
    pub(super) fn has_answer(&self) -> bool {
        self.tokens.len() > self.prompt_len
    }

    /// Tokens to be fed before the next can be sampled.
    pub(super) fn remaining(&self) -> usize {
        self.tokens.len() - self.cached
    }

    /// Cells that it will use soon: those of its tokens, and for `headroom` tokens more if it may
    /// still generate so many.
    pub(super) fn commitment(&self, n_ctx: usize, headroom: usize) -> usize {
        self.tokens.len() + headroom.min(self.may_generate(n_ctx))
    }

    /// The next `n` tokens, to be appended to `seq`.
    pub(super) fn feed(&self, seq: SeqId, n: usize) -> Feed {
        let end = self.cached + n;
        Feed {
            seq,
            start: count(self.cached),
            tokens: self.tokens[self.cached..end].to_vec(),
            sample: end == self.tokens.len(),
        }
    }

    /// `n` more tokens are cached.
    pub(super) fn fed(&mut self, n: usize, out: &mut Vec<Output>) {
        self.cached += n;
        let reading_first_time = self.remaining() > 0 && !self.has_answer();
        if reading_first_time {
            let (done, total) = (count(self.cached), count(self.prompt_len));
            out.push(Output::Prefill { id: self.id, done, total });
        }
    }

    /// Takes a sampled token; the reason is given when it was the last.
    pub(super) fn accept(
        &mut self,
        sampled: &Sampled,
        n_ctx: usize,
        out: &mut Vec<Output>,
    ) -> Option<FinishReason> {
        if !self.has_answer() {
            out.push(Output::Started { id: self.id });
        }
        let mut text = String::new();
        let finish = if sampled.end {
            Some(FinishReason::Stop)
        } else {
            self.tokens.push(sampled.token);
            let mut whole = String::new();
            self.utf8.push(&sampled.piece, &mut whole);
            if self.stops.push(&whole, &mut text) {
                out.extend(self.text(text));
                return Some(FinishReason::Stop);
            }
            (self.may_generate(n_ctx) == 0).then_some(FinishReason::Length)
        };
        if finish.is_some() {
            let mut whole = String::new();
            self.utf8.finish(&mut whole);
            if !self.stops.push(&whole, &mut text) {
                self.stops.finish(&mut text);
            }
        }
        out.extend(self.text(text));
        finish
    }

    /// Forgets the cells; all tokens will be computed again.
    pub(super) fn preempt(&mut self) {
        self.cached = 0;
        self.standing = match self.standing {
            Priority::Batch => Priority::Normal,
            Priority::Normal | Priority::Interactive => Priority::Interactive,
        };
    }

    /// Tells its client that the answer is complete.
    pub(super) fn finished(&self, finish_reason: FinishReason) -> Output {
        let usage = Usage {
            prompt_tokens: count(self.prompt_len),
            completion_tokens: count(self.tokens.len() - self.prompt_len),
            cached_tokens: 0,
        };
        Output::Finished { id: self.id, finish_reason, usage }
    }

    /// Tells its client that there will be no answer.
    pub(super) fn failed(&self, failure: Failure) -> Output {
        Output::Failed { id: self.id, failure }
    }

    /// Tokens that it may still generate: prompt and answer together fit the context.
    fn may_generate(&self, n_ctx: usize) -> usize {
        let generated = self.tokens.len() - self.prompt_len;
        let wanted = self.params.max_tokens.map_or(usize::MAX, |max| max as usize);
        wanted.saturating_sub(generated).min(n_ctx.saturating_sub(self.tokens.len()))
    }

    fn text(&self, text: String) -> Option<Output> {
        (!text.is_empty()).then_some(Output::Text { id: self.id, text })
    }
}

/// A number of tokens: at most the context's, which is a `u32`.
fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
