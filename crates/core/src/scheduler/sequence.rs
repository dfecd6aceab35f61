//! One request on its way through the batch.
//!
//! A [`Request`] comes in tokenized. A [`Sequence`] is that request with its answer so far: which
//! of its tokens are cached, how it samples and stops, and what it waits for.

use std::cmp::Reverse;

use super::draft::{Drafter, Outlook};
use super::draft_model::Skill;
use super::repetition::only_repeats;
use super::{Drafts, Output, Session};
use crate::engine_protocol::EngineRequestId;
use crate::text::{StopMatcher, Utf8Stream};
use crate::{Failure, Feed, FinishReason, Parameters, Priority, Sampled, SeqId, TokenId, Usage};

/// A request, tokenized.
#[derive(Debug, Clone)]
pub struct Request {
    /// Unique among the requests that have not ended.
    pub id: EngineRequestId,
    /// The prompt.
    pub prompt: Vec<TokenId>,
    /// How to generate; complete, as [`crate::ModelBackend::open`] requires.
    pub params: Parameters,
    /// Its priority among waiting and running requests.
    pub priority: Priority,
    /// The session that it is a turn of, if that should be saved.
    pub session: Option<Session>,
}

/// A request that will compute tokens which another one needs too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Leader {
    /// The length of the prefix that both share, in tokens.
    pub(super) tokens: usize,
    /// The leader's arrival number.
    pub(super) arrival: u64,
}

/// A request and its progress.
///
/// Reading a prompt, decoding, and recomputing after a preemption are the same operation: feed the
/// tokens that are not cached, and sample after the last.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: EngineRequestId,
    /// Counts submissions: lower is older.
    pub(super) arrival: u64,
    /// The priority it was submitted with.
    priority: Priority,
    /// The priority, raised by each preemption, so that nothing is preempted forever.
    pub(super) standing: Priority,
    params: Parameters,
    /// The prompt and the answer so far.
    tokens: Vec<TokenId>,
    prompt_len: usize,
    /// How many of the tokens are in the KV cache.
    cached: usize,
    /// How many of those another request computed.
    shared: usize,
    /// How many of those were restored from a saved state.
    restored: usize,
    session: Option<Session>,
    /// The request it waits for.
    follows: Option<Leader>,
    /// Where other cached sequences diverge from it, if the cache cannot be cut there later.
    parting: Option<usize>,
    /// Whether it computes everything itself, because the backend could not share cells with it.
    alone: bool,
    utf8: Utf8Stream,
    stops: StopMatcher,
    /// What it expects to come next; `None` if it may not have drafts.
    drafter: Option<Drafter>,
    /// Whether the draft model guesses too.
    draft_model: bool,
    /// How well the draft model guesses here; `None` before its first guess.
    skill: Option<Skill>,
    drafts: Drafts,
    /// Whether lost cells are recomputed in the pieces in which they were first computed.
    same_pieces: bool,
    /// Prompt tokens of others that were read while its own prompt waited.
    passed_by: usize,
}

impl Sequence {
    pub(super) fn new(request: Request, arrival: u64) -> Self {
        Self {
            id: request.id,
            arrival,
            priority: request.priority,
            standing: request.priority,
            stops: StopMatcher::new(&request.params.stop),
            params: request.params,
            prompt_len: request.prompt.len(),
            tokens: request.prompt,
            cached: 0,
            shared: 0,
            restored: 0,
            session: request.session,
            follows: None,
            parting: None,
            alone: false,
            utf8: Utf8Stream::default(),
            drafter: None,
            draft_model: false,
            skill: None,
            drafts: Drafts::default(),
            same_pieces: false,
            passed_by: 0,
        }
    }

    /// Enables drafts, by lookup and optionally by the draft model.
    pub(super) fn drafting(self, draft_model: bool) -> Self {
        Self { drafter: Some(Drafter::default()), draft_model, ..self }
    }

    /// Makes it compute the tokens of its answer one by one, even after a preemption.
    pub(super) fn in_the_same_pieces(self) -> Self {
        Self { same_pieces: true, ..self }
    }

    /// The preemption order, lowest first: low priority, then late arrival.
    pub(super) fn rank(&self) -> (Priority, Reverse<u64>) {
        (self.standing, Reverse(self.arrival))
    }

    /// The priority it was submitted with, not the raised one.
    pub(super) fn priority(&self) -> Priority {
        self.priority
    }

    /// Whether a person waits for it.
    pub(super) fn is_interactive(&self) -> bool {
        self.priority == Priority::Interactive
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

    /// Whether it has generated any tokens.
    pub(super) fn has_answer(&self) -> bool {
        self.tokens.len() > self.prompt_len
    }

    /// The number of tokens to feed before the next can be sampled.
    pub(super) fn remaining(&self) -> usize {
        self.tokens.len() - self.cached
    }

    /// Prompt tokens of others that were read while its own prompt waited.
    pub(super) fn passed_by(&self) -> usize {
        self.passed_by
    }

    /// Adds to [`Sequence::passed_by`].
    pub(super) fn was_passed_by(&mut self, tokens: usize) {
        self.passed_by = self.passed_by.saturating_add(tokens);
    }

    /// The maximum number of tokens that it can be fed at once.
    pub(super) fn piece(&self) -> usize {
        match self.prompt_len.checked_sub(self.cached) {
            _ if !self.same_pieces => self.remaining(),
            None | Some(0) => 1,
            Some(prompt) => prompt,
        }
    }

    /// How likely looked-up guesses are to be right; `None` if there are none.
    pub(super) fn outlook(&self) -> Option<Outlook> {
        self.drafter.as_ref().filter(|_| self.has_answer())?.outlook()
    }

    /// How likely the draft model is to be right here, given its skill in `general`; `None` if it
    /// is not asked.
    pub(super) fn model_outlook(&self, general: Skill) -> Option<Outlook> {
        let asked = self.draft_model && self.has_answer();
        asked.then(|| self.skill.unwrap_or(general).outlook())
    }

    /// Records that the first `right` of the draft model's guesses were accepted.
    pub(super) fn guessed(&mut self, guesses: usize, right: usize, general: Skill) {
        self.skill.get_or_insert(general).observe(guesses, right);
    }

    /// Records a token sampled without the draft model.
    pub(super) fn not_guessed(&mut self) {
        if let Some(skill) = &mut self.skill {
            skill.fade();
        }
    }

    /// Stops asking the draft model.
    pub(super) fn without_model(&mut self) {
        self.draft_model = false;
    }

    /// The maximum number of drafts, up to `n`: together with the token sampled after them, they
    /// must stay within what it may generate.
    pub(super) fn most_drafts(&self, n: usize, n_ctx: usize) -> usize {
        n.min(self.may_generate(n_ctx).saturating_sub(1))
    }

    /// Adds up to `n` looked-up drafts to its next token, as far as it may generate that many.
    pub(super) fn add_drafts(&self, feed: &mut Feed, n: usize, n_ctx: usize) {
        let n = self.most_drafts(n, n_ctx);
        if let Some(drafter) = &self.drafter {
            let drafts = drafter.drafts(&self.tokens, n);
            feed.drafts = drafts.len();
            feed.tokens.extend(drafts);
        }
    }

    /// Whether feeding it one token samples the next.
    pub(super) fn decodes(&self) -> bool {
        self.remaining() == 1
    }

    /// The tokens whose cells it can take from others: all but the last, which it feeds to sample
    /// the next. Empty if it computes everything itself.
    pub(super) fn sharable(&self) -> &[TokenId] {
        match self.tokens.split_last() {
            Some((_, before)) if !self.alone => before,
            _ => &[],
        }
    }

    /// Records that its first `tokens` tokens are cached, computed by another request.
    pub(super) fn joined(&mut self, tokens: usize) {
        let gained = tokens - self.cached;
        self.shared = (self.shared + gained).min(tokens);
        self.cached = tokens;
        self.follows = None;
    }

    /// Records that its first `tokens` tokens are cached, restored from its session's saved state.
    pub(super) fn restored(&mut self, tokens: usize) {
        self.joined(tokens);
        self.restored = tokens;
    }

    /// Records that a saved or parked state could not be restored.
    pub(super) fn not_restored(&mut self) {
        if let Some(session) = self.session.as_mut().filter(|_| self.restored > 0) {
            session.saved.clear();
        }
        self.forget_cells();
    }

    /// The session that it is a turn of.
    pub(super) fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    fn forget_cells(&mut self) {
        (self.cached, self.shared, self.restored) = (0, 0, 0);
    }

    /// Records that the backend could not share cells with it.
    pub(super) fn not_joined(&mut self) {
        self.forget_cells();
        self.alone = true;
    }

    /// Sets where others diverge from it, if that is still ahead. Returns whether it has just
    /// reached the previous such place.
    pub(super) fn part_at(&mut self, tokens: Option<usize>) -> bool {
        let parted = self.parting.is_some_and(|parting| parting == self.cached);
        self.parting = tokens.filter(|tokens| *tokens > self.cached);
        parted
    }

    /// How many tokens to feed until others diverge from it; unlimited if none do.
    pub(super) fn until_parting(&self) -> usize {
        let parting = self.parting.and_then(|parting| parting.checked_sub(self.cached));
        parting.filter(|tokens| *tokens > 0).unwrap_or(usize::MAX)
    }

    /// Sets the request that it waits for, if any.
    pub(super) fn follow(&mut self, leader: Option<Leader>) {
        self.follows = leader;
    }

    /// How many more tokens `leader` has to compute for this one; `None` if it does not wait for
    /// `leader`.
    pub(super) fn awaits(&self, leader: &Self) -> Option<usize> {
        let follows = self.follows.filter(|follows| follows.arrival == leader.arrival)?;
        follows.tokens.checked_sub(leader.cached).filter(|tokens| *tokens > 0)
    }

    /// Whether it waits for another request to compute a shared prefix.
    pub(super) fn follows(&self) -> bool {
        self.follows.is_some()
    }

    /// The number of cells that it needs beyond those it has: for tokens that no leader will
    /// compute, and for up to `headroom` tokens of its answer.
    pub(super) fn needs(&self, n_ctx: usize, headroom: usize) -> usize {
        let others = self.follows.map_or(0, |leader| leader.tokens).max(self.cached);
        self.tokens.len() - others + headroom.min(self.may_generate(n_ctx))
    }

    /// A feed of its next `n` tokens to `seq`.
    pub(super) fn feed(&self, seq: SeqId, n: usize) -> Feed {
        let end = self.cached + n;
        Feed {
            seq,
            start: count(self.cached),
            tokens: self.tokens[self.cached..end].to_vec(),
            sample: end == self.tokens.len(),
            drafts: 0,
        }
    }

    /// Records that `feed` was computed and `sampled` tokens will be accepted. Rejected drafts are
    /// not cached.
    pub(super) fn fed(&mut self, feed: &Feed, sampled: usize, out: &mut Vec<Output>) {
        self.cached += feed.known();
        let reading_first_time = self.remaining() > 0 && !self.has_answer();
        if reading_first_time {
            let (done, total) = (count(self.cached), count(self.prompt_len));
            out.push(Output::Prefill { id: self.id, done, total });
        }
        let came_true = feed.kept(sampled) - feed.known();
        self.drafts.drafted += count(feed.drafts);
        self.drafts.accepted += count(came_true);
        self.cached += came_true;
    }

    /// Accepts a sampled token. Returns why generation ends, if this was the last one.
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
            if let Some(drafter) = &mut self.drafter {
                drafter.came(&self.tokens);
            }
            let mut whole = String::new();
            self.utf8.push(&sampled.piece, &mut whole);
            if self.stops.push(&whole, &mut text) {
                out.extend(self.text(text));
                return Some(FinishReason::Stop);
            }
            if self.may_generate(n_ctx) == 0 {
                Some(FinishReason::Length)
            } else {
                self.is_stuck().then_some(FinishReason::Repetition)
            }
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

    /// Whether its answer has only repeated itself for `repeat_limit` tokens.
    fn is_stuck(&self) -> bool {
        let limit = self.params.repeat_limit.filter(|limit| *limit > 0);
        limit.is_some_and(|limit| only_repeats(&self.tokens[self.prompt_len..], limit as usize))
    }

    /// Forgets its cells, so that all tokens are recomputed, and raises its standing.
    pub(super) fn preempt(&mut self) {
        self.forget_cells();
        (self.follows, self.parting) = (None, None);
        self.standing = match self.standing {
            Priority::Batch => Priority::Normal,
            Priority::Normal | Priority::Interactive => Priority::Interactive,
        };
    }

    /// The output for a complete answer.
    pub(super) fn finished(&self, finish_reason: FinishReason) -> Output {
        let usage = Usage {
            prompt_tokens: count(self.prompt_len),
            completion_tokens: count(self.tokens.len() - self.prompt_len),
            cached_tokens: count(self.shared.min(self.prompt_len)),
            restored_tokens: count(self.restored.min(self.prompt_len)),
        };
        Output::Finished { id: self.id, finish_reason, usage, drafts: self.drafts }
    }

    /// The output for a failed request.
    pub(super) fn failed(&self, failure: Failure) -> Output {
        Output::Failed { id: self.id, failure }
    }

    /// How many more tokens it may generate, within `max_tokens` and the context.
    fn may_generate(&self, n_ctx: usize) -> usize {
        let generated = self.tokens.len() - self.prompt_len;
        let wanted = self.params.max_tokens.map_or(usize::MAX, |max| max as usize);
        wanted.saturating_sub(generated).min(n_ctx.saturating_sub(self.tokens.len()))
    }

    fn text(&self, text: String) -> Option<Output> {
        (!text.is_empty()).then_some(Output::Text { id: self.id, text })
    }
}

/// Converts a number of tokens, which is at most the context's `u32`.
pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
