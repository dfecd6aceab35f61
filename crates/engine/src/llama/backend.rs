//! [`ModelBackend`] over a llama.cpp context.

use std::cell::OnceCell;
use std::time::Instant;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::vocab::LlamaVocab;
use threadrunner_core::{
    BackendError, Draft, DraftRequest, Drafted, ErrorCode, Failure, Feed, Interrupt, Message,
    ModelBackend, ModelInfo, Parameters, Plan, PrefixCache, Sampled, SeqId, TokenId, Tool,
};

use super::context::{Batch, Context, DecodeError};
use super::draft::Drafter;
use super::places::{Move, Places};
use super::sampler::{self, Sampler};
use super::template::{ChatTemplate, TemplateError};
use super::threads::Controller;

/// An open sequence.
#[derive(Debug)]
struct Sequence {
    sampler: Sampler,
    /// The number of its tokens in the cache.
    cached: u32,
    /// Whether repeating the request must repeat the answer: it is greedy or has a seed.
    repeatable: bool,
}

/// From this many cells on, llama.cpp splits the attention of a single token into one part per
/// thread and sums the parts, so the number of threads shows in the rounding. (It splits from 512
/// cells on and rounds the number up to a multiple of 256.)
const CELLS_IN_PARTS: usize = 256;

/// Up to this many cells, repeatable requests use llama.cpp's attention even beside others: it
/// visits every cell for each token, which is affordable here, and a short request gets the same
/// answer as alone.
const FEW_CELLS: usize = 512;

/// Forward passes of fewer tokens are not interrupted: they end within some tens of milliseconds,
/// and their work would be lost.
const LONG_PASS: usize = 32;

/// A loaded model with its context.
#[derive(Debug)]
pub(super) struct Llama<'model> {
    vocab: LlamaVocab<'model>,
    n_vocab: i32,
    context: Context<'model>,
    /// `None` if the model file has no chat template: it is a base model.
    template: Option<Result<ChatTemplate, TemplateError>>,
    info: ModelInfo,
    /// What a saved sequence depends on; `None` if sequences cannot be saved.
    state_format: Option<String>,
    sequences: Vec<Option<Sequence>>,
    places: Places,
    batch: Batch,
    candidates: LlamaTokenDataArray,
    draft: Option<Drafter<'model>>,
    interrupt: Option<Interrupt>,
    /// Whether the last forward pass was interrupted; if so, the next one is not.
    interrupted: bool,
    threads: Controller,
    /// The length in bytes of the longest token, computed when the first very long text comes.
    longest_token: OnceCell<usize>,
    /// The number of tokens fed since the cache was last empty: an upper bound of the cells in use.
    fed: usize,
}

/// Texts of up to this many bytes are tokenized whatever the context holds, which takes some
/// milliseconds.
const SHORT_TEXT: usize = 1 << 16;

impl<'model> Llama<'model> {
    pub(super) fn new(
        model: &'model LlamaModel,
        context: Context<'model>,
        template: Option<Result<ChatTemplate, TemplateError>>,
        info: ModelInfo,
        state_format: Option<String>,
    ) -> Self {
        let sequences = (0..info.n_seq_max + info.n_seq_spare).map(|_| None).collect();
        let settings = context.settings();
        let places = Places::new(settings.sequences, settings.states);
        let threads = Controller::new(settings.threads);
        Self {
            vocab: model.vocab(),
            n_vocab: model.n_vocab(),
            context,
            template,
            info,
            state_format,
            sequences,
            places,
            batch: Batch::default(),
            candidates: LlamaTokenDataArray::new(Vec::new(), false),
            draft: None,
            interrupt: None,
            interrupted: false,
            threads,
            longest_token: OnceCell::new(),
            fed: 0,
        }
    }

    /// Adds a draft model.
    pub(super) fn drafted_by(self, draft: Option<Drafter<'model>>) -> Self {
        Self { draft, ..self }
    }

    fn sequence(&mut self, seq: SeqId) -> Result<&mut Sequence, BackendError> {
        self.sequences
            .get_mut(seq.0 as usize)
            .and_then(Option::as_mut)
            .ok_or_else(|| BackendError::Broken(format!("sequence {} is not open", seq.0)))
    }

    /// The llama.cpp sequence that currently holds `seq`.
    fn place(&self, seq: SeqId) -> Result<i32, BackendError> {
        let place = self.places.of(seq);
        place.ok_or_else(|| BackendError::Broken(format!("sequence {} is not open", seq.0)))
    }

    /// Moves sequences to places where they can take part in a forward pass and be saved.
    fn bring(&mut self, all: &[SeqId]) -> Result<(), BackendError> {
        let moves = self.places.bring(all);
        let moves = moves.ok_or_else(|| BackendError::Broken("no place in the batch".into()))?;
        for Move { from, to } in moves {
            self.context.hand_over(from, to);
        }
        Ok(())
    }

    /// Puts the plan into the batch and returns the rows to sample.
    fn fill_batch(&mut self, plan: &Plan) -> Result<Vec<(usize, SeqId)>, BackendError> {
        self.batch.clear();
        let all: Vec<SeqId> = plan.feeds.iter().map(|feed| feed.seq).collect();
        self.bring(&all)?;
        let mut rows = Vec::new();
        for Feed { seq, start, tokens, sample, drafts } in &plan.feeds {
            let cached = self.sequence(*seq)?.cached;
            let place = self.place(*seq)?;
            if *start != cached {
                return Err(BackendError::Broken(format!(
                    "sequence {} has {cached} tokens in the cache but was fed from {start}",
                    seq.0
                )));
            }
            let known = tokens.len().saturating_sub(*drafts);
            for (index, (position, token)) in (*start..).zip(tokens).enumerate() {
                let position = i32::try_from(position)
                    .map_err(|_| BackendError::Broken("a position beyond 2^31".to_owned()))?;
                self.batch.push(token.0, position, place);
                if *sample && index + 1 >= known && self.batch.want_output() {
                    rows.push((self.batch.len() - 1, *seq));
                }
            }
        }
        Ok(rows)
    }

    /// Refuses a text that cannot fit whatever its tokens are: tokenizing megabytes would delay
    /// every other request for seconds, only to find that they do not fit.
    fn refuse_what_cannot_fit(&self, text: &str) -> Result<(), BackendError> {
        if text.len() <= SHORT_TEXT {
            return Ok(());
        }
        let longest = *self.longest_token.get_or_init(|| {
            let length = |token| self.vocab.token_to_piece(token, true, None).len();
            self.vocab.tokens().map(length).max().unwrap_or(1).max(1)
        });
        let (least, n_ctx) = (text.len() / longest, self.info.n_ctx as usize);
        if least <= n_ctx && i32::try_from(text.len()).is_ok() {
            return Ok(());
        }
        let message = format!(
            "the prompt is at least {least} tokens long, but the context holds {n_ctx} tokens"
        );
        Err(BackendError::Request(
            Failure::new(ErrorCode::ContextExceeded, message)
                .hint("shorten the prompt, or set a larger context in [engine] of config.toml"),
        ))
    }

    /// Whether to use our own attention ([`super::attention`]).
    ///
    /// Never if the engine is deterministic. A repeatable request that is alone, with nothing else
    /// in the cache, is answered exactly as llama.cpp answers it. While few cells are in use, that
    /// holds beside other requests too, and for every prefill, because a repeatable request may
    /// share it: then ours is used only for passes that decode nothing but other requests.
    fn own_attention(&self, plan: &Plan) -> bool {
        let cells: usize =
            self.sequences.iter().flatten().map(|sequence| sequence.cached as usize).sum();
        if self.info.deterministic {
            return false;
        }
        if cells + plan.n_tokens() <= FEW_CELLS {
            return plan.feeds.iter().all(|feed| feed.decodes() && self.repeatable(feed).is_none());
        }
        let [feed] = plan.feeds.as_slice() else { return true };
        self.repeatable(feed).is_none_or(|own| cells > own.cached as usize)
    }

    /// The sequence of a feed, if it is repeatable.
    fn repeatable(&self, feed: &Feed) -> Option<&Sequence> {
        let sequence = self.sequences.get(feed.seq.0 as usize)?.as_ref();
        sequence.filter(|sequence| sequence.repeatable)
    }

    /// Whether the number of threads could change an answer that must be repeatable.
    fn depends_on_threads(&self, plan: &Plan) -> bool {
        let repeatable = |feed| self.repeatable(feed).is_some();
        self.batch.len() == 1 && self.fed >= CELLS_IN_PARTS && plan.feeds.iter().any(repeatable)
    }

    /// Computes the batch with the best number of threads, or with all of them if their number must
    /// not change. A long pass can be interrupted.
    fn decode(&mut self, plan: &Plan) -> Result<(), DecodeError> {
        let tokens = self.batch.len();
        let held = self.info.deterministic || self.depends_on_threads(plan);
        let threads = if held { self.threads.most() } else { self.threads.threads(tokens) };
        self.context.set_threads(threads);
        self.context.set_own_attention(self.own_attention(plan));
        let worth_it = tokens >= LONG_PASS && !self.interrupted;
        self.context.listen_to(self.interrupt.as_ref().filter(|_| worth_it));
        let start = Instant::now();
        let decoded = self.context.decode(&mut self.batch);
        self.interrupted = decoded == Err(DecodeError::Interrupted);
        decoded?;
        self.fed += tokens;
        if !held {
            self.threads.observe(tokens, start.elapsed());
        }
        Ok(())
    }

    /// Undoes the forward pass if a row to sample has unusable logits: llama.cpp's samplers would
    /// abort. The scheduler then tries each sequence alone, since the logits of others may be fine.
    fn refuse_what_is_no_number(
        &mut self,
        plan: &Plan,
        rows: &[(usize, SeqId)],
    ) -> Result<(), BackendError> {
        let in_order = |row: usize| self.context.logits(row).is_some_and(sampler::usable);
        if rows.iter().all(|(row, _)| in_order(*row)) {
            return Ok(());
        }
        for feed in &plan.feeds {
            let place = self.place(feed.seq)?;
            if !self.context.forget(place, i32::try_from(feed.start).unwrap_or(0)) {
                return Err(BackendError::Broken("a forward pass cannot be undone".to_owned()));
            }
        }
        Err(BackendError::Request(
            Failure::new(
                ErrorCode::Inference,
                "the model computed logits that are not numbers: its weights are damaged",
            )
            .hint("compare the model file's checksum with the publisher's"),
        ))
    }

    fn sample(&mut self, row: usize, seq: SeqId) -> Result<Sampled, BackendError> {
        let broken = |what: &str| BackendError::Broken(what.to_owned());
        let logits = self.context.logits(row).ok_or_else(|| broken("a row without logits"))?;
        let sequence = self
            .sequences
            .get_mut(seq.0 as usize)
            .and_then(Option::as_mut)
            .ok_or_else(|| broken("a sequence that is not open"))?;
        let token = sequence
            .sampler
            .sample(logits, &mut self.candidates)
            .ok_or_else(|| broken("the sampler chose no token"))?;
        let end = self.vocab.is_eog(token);
        let mut piece = Vec::new();
        if !end {
            // Control tokens render as nothing (`special: false`).
            self.vocab.token_to_piece_into(token, &mut piece, false, None);
        }
        Ok(Sampled { seq, token: TokenId(token.0), end, piece })
    }
}

impl ModelBackend for Llama<'_> {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn render_chat(&self, messages: &[Message], tools: &[Tool]) -> Result<String, BackendError> {
        match &self.template {
            Some(Ok(template)) => template.render(messages, tools).map_err(|error| refused(&error)),
            Some(Err(error)) => Err(refused(error)),
            None => Err(BackendError::Request(Failure::new(
                ErrorCode::ChatTemplate,
                "the model file has no chat template: it is a base model",
            ))),
        }
    }

    fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, BackendError> {
        self.refuse_what_cannot_fit(text)?;
        // Not `add_special`: it would add a second begin-of-sequence token to a text that has one,
        // and an end-of-sequence token to a prompt to be continued.
        let mut tokens = self.vocab.tokenize(text.as_bytes(), false, true);
        let bos = self.vocab.bos();
        if self.vocab.should_add_bos() && bos.0 >= 0 && tokens.first() != Some(&bos) {
            tokens.insert(0, bos);
        }
        Ok(tokens.into_iter().map(|token| TokenId(token.0)).collect())
    }

    fn open(
        &mut self,
        seq: SeqId,
        params: &Parameters,
        prompt: &[TokenId],
    ) -> Result<(), BackendError> {
        let invalid = |error: threadrunner_core::InvalidParameter| {
            BackendError::Request(Failure::new(ErrorCode::InvalidRequest, error.to_string()))
        };
        params.validate().map_err(invalid)?;
        let exists = |token: &&TokenId| (0..self.n_vocab).contains(&token.0);
        let prompt: Vec<LlamaToken> =
            prompt.iter().filter(exists).map(|token| LlamaToken(token.0)).collect();
        let sampler = Sampler::new(params, self.n_vocab, &prompt);
        let slot = self
            .sequences
            .get_mut(seq.0 as usize)
            .ok_or_else(|| BackendError::Broken(format!("no sequence {}", seq.0)))?;
        *slot = Some(Sequence { sampler, cached: 0, repeatable: params.repeatable() });
        let place = self.places.open(seq);
        let place = place.ok_or_else(|| BackendError::Broken("no place for a sequence".into()))?;
        self.context.forget(place, 0);
        Ok(())
    }

    fn forward(&mut self, plan: &Plan, sampled: &mut Vec<Sampled>) -> Result<(), BackendError> {
        let rows = self.fill_batch(plan)?;
        self.decode(plan).map_err(|error| match error {
            DecodeError::CacheFull => BackendError::CacheFull,
            DecodeError::Interrupted => BackendError::Interrupted,
            error => BackendError::Broken(error.to_string()),
        })?;
        self.refuse_what_is_no_number(plan, &rows)?;
        let mut rows = rows.as_slice();
        for feed in &plan.feeds {
            let own = rows.iter().take_while(|(_, seq)| *seq == feed.seq).count();
            let (own, others) = rows.split_at(own);
            rows = others;
            let mut came_true = 0;
            for (draft, (row, seq)) in own.iter().enumerate() {
                let token = self.sample(*row, *seq)?;
                let goes_on = feed.came_true(draft, &token);
                sampled.push(token);
                if !goes_on {
                    break;
                }
                came_true += 1;
            }
            let cached = feed.start + (feed.known() + came_true) as u32;
            self.sequence(feed.seq)?.cached = cached;
            let cut = i32::try_from(cached).unwrap_or(i32::MAX);
            if came_true < feed.drafts && !self.context.forget(self.place(feed.seq)?, cut) {
                return Err(BackendError::Broken("rejected drafts cannot be undone".to_owned()));
            }
        }
        Ok(())
    }

    fn draft(&mut self, requests: &[DraftRequest]) -> Drafted {
        let start = Instant::now();
        let drafts = match &mut self.draft {
            Some(drafter) => drafter.draft(requests, self.interrupt.as_ref()),
            None => vec![Draft::Never; requests.len()],
        };
        Drafted { drafts, took: start.elapsed() }
    }

    fn listen_to(&mut self, interrupt: Interrupt) {
        self.interrupt = Some(interrupt);
    }

    fn copy(&mut self, from: SeqId, to: SeqId, tokens: u32) -> Result<(), BackendError> {
        self.trim(to, 0)?;
        let there = self.sequence(from).map_or(0, |from| from.cached);
        let shared = tokens <= there
            && self.info.prefix_cache != PrefixCache::None
            && self.context.share(
                self.place(from)?,
                self.place(to)?,
                i32::try_from(tokens).unwrap_or(i32::MAX),
            );
        if !shared {
            self.context.forget(self.place(to)?, 0);
            return Err(BackendError::Request(Failure::new(
                ErrorCode::Inference,
                format!("this model's cache cannot share the first {tokens} of {there} tokens"),
            )));
        }
        self.sequence(to)?.cached = tokens;
        Ok(())
    }

    fn trim(&mut self, seq: SeqId, keep: u32) -> Result<(), BackendError> {
        let cached = self.sequence(seq)?.cached;
        if keep >= cached {
            return Ok(());
        }
        if !self.context.forget(self.place(seq)?, i32::try_from(keep).unwrap_or(i32::MAX)) {
            return Err(BackendError::Request(Failure::new(
                ErrorCode::Inference,
                format!("this model's cache cannot be cut to {keep} of {cached} tokens"),
            )));
        }
        self.sequence(seq)?.cached = keep;
        Ok(())
    }

    fn state_format(&self) -> Option<String> {
        self.state_format.clone()
    }

    fn save(&mut self, seq: SeqId, most: usize) -> Result<Option<Vec<u8>>, BackendError> {
        self.bring(&[seq])?;
        let place = self.place(seq)?;
        let cached = self.sequence(seq)?.cached;
        let failed = || {
            let message = format!("llama.cpp did not save a sequence of {cached} tokens");
            BackendError::Request(Failure::new(ErrorCode::Inference, message))
        };
        let bytes = self.context.state_bytes(place).ok_or_else(failed)?;
        if bytes > most {
            tracing::debug!(bytes, most, "session too large to save");
            return Ok(None);
        }
        self.context.state(place, bytes).map(Some).ok_or_else(failed)
    }

    fn restore(&mut self, seq: SeqId, tokens: u32, state: &[u8]) -> Result<(), BackendError> {
        self.trim(seq, 0)?;
        let place = self.place(seq)?;
        if !self.context.restore(place, i32::try_from(tokens).unwrap_or(i32::MAX), state) {
            let message = format!("llama.cpp did not restore a sequence of {tokens} tokens");
            return Err(BackendError::Request(Failure::new(ErrorCode::Inference, message)));
        }
        self.sequence(seq)?.cached = tokens;
        self.fed += tokens as usize;
        Ok(())
    }

    fn close(&mut self, seq: SeqId) {
        if let Some(slot) = self.sequences.get_mut(seq.0 as usize) {
            *slot = None;
            if let Some(place) = self.places.of(seq) {
                self.context.forget(place, 0);
                self.places.close(seq);
            }
            if self.sequences.iter().all(Option::is_none) {
                self.fed = 0;
            }
        }
    }
}

fn refused(error: &TemplateError) -> BackendError {
    BackendError::Request(
        Failure::new(ErrorCode::ChatTemplate, error.to_string())
            .hint("use `--raw` to send the prompt without the template"),
    )
}
