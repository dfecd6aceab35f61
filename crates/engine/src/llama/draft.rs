//! The draft model: a small model that guesses what the large one will say.
//!
//! [`Drafter`] has a context of its own, in which it follows the sequences that it is asked about.
//! It identifies cached cells by their tokens: however a sequence has changed, the cells of the
//! prefix that still matches are kept, and the rest is fed again. So it needs no notice when
//! sequences are opened, cut or closed, and a failure here costs only guesses.

use std::time::Instant;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::vocab::LlamaVocab;
use threadrunner_core::{Draft, DraftRequest, Interrupt, PrefixCache, SeqId, TokenId};

use super::context::{Batch, Context, ContextSettings, DecodeError};
use super::threads::Controller;

/// A request with more tokens than this to read only reads them and guesses in a later call, so
/// that the others do not wait for it.
const MOST_TO_READ: usize = 32;
/// How many more matching tokens another slot must have for sharing its cells to be worth it.
const WORTH_SHARING: usize = 16;
/// With sliding-window attention, up to this many tokens can be cut off, since they overwrote
/// little. Beyond that, everything is read again from the start.
const MOST_CUT_OFF_A_WINDOW: usize = 64;

/// A draft model with its context.
#[derive(Debug)]
pub(super) struct Drafter<'model> {
    vocab: LlamaVocab<'model>,
    /// The number of tokens that both vocabularies have.
    n_vocab: i32,
    cache: PrefixCache,
    context: Context<'model>,
    /// What each of the context's sequences has cached.
    slots: Vec<Slot>,
    batch: Batch,
    threads: Controller,
    /// Counts calls, to find the least recently used slot.
    calls: u64,
}

/// A sequence of the draft model's context.
#[derive(Debug, Default)]
struct Slot {
    /// The sequence that last used this slot.
    seq: Option<SeqId>,
    tokens: Vec<TokenId>,
    used: u64,
}

/// A request that has a slot.
#[derive(Debug)]
struct Work {
    /// Index of the request.
    request: usize,
    slot: usize,
    /// How many tokens to feed before guessing.
    feed: usize,
    /// Whether this call only reads tokens for it, without guessing.
    reads: bool,
    guesses: Vec<TokenId>,
    /// Whether it has all its guesses.
    done: bool,
}

impl<'model> Drafter<'model> {
    /// Creates a drafter with a slot for each sequence of `context`. `n_vocab` is the size of the
    /// large model's vocabulary.
    pub(super) fn new(
        model: &'model LlamaModel,
        context: Context<'model>,
        cache: PrefixCache,
        n_vocab: i32,
    ) -> Self {
        let ContextSettings { sequences, threads, .. } = *context.settings();
        Self {
            vocab: model.vocab(),
            n_vocab: n_vocab.min(model.n_vocab()),
            cache,
            context,
            slots: (0..sequences).map(|_| Slot::default()).collect(),
            batch: Batch::default(),
            threads: Controller::new(threads),
            calls: 0,
        }
    }

    /// Guesses for each request until `interrupt` fires.
    pub(super) fn draft(
        &mut self,
        requests: &[DraftRequest],
        interrupt: Option<&Interrupt>,
    ) -> Vec<Draft> {
        self.calls += 1;
        let mut drafts = vec![Draft::Never; requests.len()];
        let mut work = self.distribute(requests);
        for work in &work {
            drafts[work.request] = Draft::Reading;
        }
        self.read(requests, &mut work, &mut drafts, interrupt);
        let stop = || interrupt.is_some_and(Interrupt::asked);
        while !stop() && self.guess_on(requests, &mut work) {}
        for work in work {
            drafts[work.request] = Draft::Tokens(work.guesses);
        }
        drafts
    }

    /// Gives each request a slot that holds as long a prefix of its tokens as possible and nothing
    /// else.
    fn distribute(&mut self, requests: &[DraftRequest]) -> Vec<Work> {
        let n_ctx = self.context.settings().n_ctx as usize;
        let mut all = Vec::new();
        for (request, DraftRequest { seq, tokens, n }) in requests.iter().enumerate() {
            if tokens.is_empty() || tokens.len() + n > n_ctx {
                continue;
            }
            let Some(slot) = self.slot_of(*seq) else { continue };
            self.slots[slot].seq = Some(*seq);
            self.slots[slot].used = self.calls;
            self.cut(slot, tokens);
            self.borrow(slot, tokens);
            let missing = &tokens[self.slots[slot].tokens.len()..];
            if missing.iter().all(|token| (0..self.n_vocab).contains(&token.0)) {
                all.push(Work {
                    request,
                    slot,
                    feed: 0,
                    reads: false,
                    guesses: Vec::new(),
                    done: false,
                });
            }
        }
        all
    }

    /// The slot that `seq` used last, else the least recently used one; `None` if all are taken.
    fn slot_of(&self, seq: SeqId) -> Option<usize> {
        let own = self.slots.iter().position(|slot| slot.seq == Some(seq));
        own.or_else(|| {
            let idle = |slot: &usize| self.slots[*slot].used < self.calls;
            (0..self.slots.len()).filter(idle).min_by_key(|slot| self.slots[*slot].used)
        })
    }

    /// Removes what does not match `tokens` from a slot. The last of `tokens` is always fed again,
    /// since the guess needs its logits.
    fn cut(&mut self, slot: usize, tokens: &[TokenId]) {
        let cached = self.slots[slot].tokens.len();
        let mut keep = common(&self.slots[slot].tokens, tokens);
        if keep == cached {
            return;
        }
        if matches!(self.cache, PrefixCache::Window(_)) && cached - keep > MOST_CUT_OFF_A_WINDOW {
            keep = 0;
        }
        self.keep(slot, keep);
    }

    /// Removes all but the first `tokens` tokens of a slot.
    fn keep(&mut self, slot: usize, tokens: usize) {
        let cut = self.context.forget(place(slot), i32::try_from(tokens).unwrap_or(i32::MAX));
        if !cut {
            self.context.forget(place(slot), 0);
        }
        self.slots[slot].tokens.truncate(if cut { tokens } else { 0 });
    }

    /// Shares another slot's cells with this one if they match clearly more of `tokens`.
    fn borrow(&mut self, slot: usize, tokens: &[TokenId]) {
        if self.cache != PrefixCache::Any {
            return;
        }
        let others = (0..self.slots.len()).filter(|other| *other != slot);
        let shared = others.map(|other| (common(&self.slots[other].tokens, tokens), other));
        let Some((shared, donor)) = shared.max() else { return };
        if shared < self.slots[slot].tokens.len() + WORTH_SHARING {
            return;
        }
        self.keep(slot, 0);
        let count = i32::try_from(shared).unwrap_or(i32::MAX);
        if self.context.share(place(donor), place(slot), count) {
            self.slots[slot].tokens.extend_from_slice(&tokens[..shared]);
        } else {
            self.keep(slot, 0);
        }
    }

    /// Feeds the missing tokens. Requests with few of them get their first guess; those that only
    /// read are removed from `work`.
    fn read(
        &mut self,
        requests: &[DraftRequest],
        work: &mut Vec<Work>,
        drafts: &mut [Draft],
        interrupt: Option<&Interrupt>,
    ) {
        let missing = |slots: &[Slot], work: &Work| {
            requests[work.request].tokens.len() - slots[work.slot].tokens.len()
        };
        work.sort_by_key(|work| missing(&self.slots, work));
        loop {
            let mut budget = self.context.settings().n_batch as usize;
            self.batch.clear();
            for work in work.iter_mut() {
                let missing = missing(&self.slots, work);
                work.reads = missing > MOST_TO_READ.min(budget);
                work.feed = missing.min(budget);
                budget -= work.feed;
                let from = self.slots[work.slot].tokens.len();
                let tokens = &requests[work.request].tokens[from..from + work.feed];
                for (position, token) in (from..).zip(tokens) {
                    let position = i32::try_from(position).unwrap_or(i32::MAX);
                    self.batch.push(token.0, position, place(work.slot));
                }
                if !work.reads {
                    self.batch.want_output();
                }
            }
            if work.is_empty() {
                return;
            }
            let full = match self.decode(interrupt) {
                Ok(()) => break,
                Err(DecodeError::CacheFull) => true,
                Err(DecodeError::Interrupted) => {
                    work.clear();
                    return;
                }
                Err(error) => {
                    tracing::warn!("the draft model failed: {error}");
                    false
                }
            };
            if full && self.forget_idle() {
                continue;
            }
            // Drops the request with the most to read, to make room for the others.
            let Some(out) = work.pop() else { return };
            drafts[out.request] = Draft::Never;
            self.slots[out.slot].seq = None;
            self.keep(out.slot, 0);
        }
        let mut row = 0;
        for work in work.iter_mut() {
            let slot = &mut self.slots[work.slot];
            let from = slot.tokens.len();
            slot.tokens.extend_from_slice(&requests[work.request].tokens[from..from + work.feed]);
            row += work.feed;
            if !work.reads {
                let guess = likeliest(&self.context, row - 1, self.n_vocab);
                work.note(guess, &self.vocab, requests[work.request].n);
            }
        }
        work.retain(|work| !work.reads);
    }

    /// Adds a guess to each request that is not done. Returns whether there was any.
    fn guess_on(&mut self, requests: &[DraftRequest], work: &mut [Work]) -> bool {
        self.batch.clear();
        for work in work.iter().filter(|work| !work.done) {
            let Some(guess) = work.guesses.last() else { continue };
            let position = i32::try_from(self.slots[work.slot].tokens.len()).unwrap_or(i32::MAX);
            self.batch.push(guess.0, position, place(work.slot));
            self.batch.want_output();
        }
        // If this fails, the guesses made so far are still useful.
        if self.batch.len() == 0 || self.decode(None).is_err() {
            return false;
        }
        for (row, work) in work.iter_mut().filter(|work| !work.done).enumerate() {
            self.slots[work.slot].tokens.extend(work.guesses.last());
            let guess = likeliest(&self.context, row, self.n_vocab);
            work.note(guess, &self.vocab, requests[work.request].n);
        }
        true
    }

    /// Empties the slots that this call does not use. Returns whether any had tokens.
    fn forget_idle(&mut self) -> bool {
        let idle = |slot: &Slot| slot.used < self.calls && !slot.tokens.is_empty();
        let idle: Vec<usize> =
            (0..self.slots.len()).filter(|slot| idle(&self.slots[*slot])).collect();
        for slot in &idle {
            self.slots[*slot].seq = None;
            self.keep(*slot, 0);
        }
        !idle.is_empty()
    }

    fn decode(&mut self, interrupt: Option<&Interrupt>) -> Result<(), DecodeError> {
        let tokens = self.batch.len();
        self.context.set_threads(self.threads.threads(tokens));
        self.context.listen_to(interrupt.filter(|_| tokens > MOST_TO_READ));
        let start = Instant::now();
        self.context.decode(&mut self.batch)?;
        self.threads.observe(tokens, start.elapsed());
        Ok(())
    }
}

impl Work {
    /// Records a guess. A guess that the answer ends is not kept: checking it would gain nothing.
    fn note(&mut self, guess: Option<TokenId>, vocab: &LlamaVocab<'_>, n: usize) {
        match guess {
            Some(guess) if !vocab.is_eog(LlamaToken(guess.0)) => {
                self.guesses.push(guess);
                self.done = self.guesses.len() >= n;
            }
            _ => self.done = true,
        }
    }
}

/// The llama.cpp sequence of a slot.
fn place(slot: usize) -> i32 {
    i32::try_from(slot).unwrap_or(i32::MAX)
}

/// The length of the common prefix, not counting the last of `tokens`.
fn common(cached: &[TokenId], tokens: &[TokenId]) -> usize {
    let before = tokens.len().saturating_sub(1);
    cached.iter().zip(&tokens[..before]).take_while(|(a, b)| a == b).count()
}

/// The most likely token after a row, among those that both models have.
fn likeliest(context: &Context<'_>, row: usize, n_vocab: i32) -> Option<TokenId> {
    let logits = context.logits(row)?;
    let mut best: Option<(TokenId, f32)> = None;
    for (token, logit) in (0..n_vocab).zip(logits) {
        if best.is_none_or(|(_, most)| *logit > most) {
            best = Some((TokenId(token), *logit));
        }
    }
    best.map(|(token, _)| token)
}
