//! One request on its way through the batch.

use std::cmp::Reverse;

use super::draft::{Drafter, Outlook};
use super::draft_model::Skill;
use super::repetition::only_repeats;
use super::{Drafts, Output, Session};
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
    /// The conversation that it is a turn of, where that is to be saved.
    pub session: Option<Session>,
}

/// A request that is about to compute what another needs too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Leader {
    /// How many of their first tokens both have in common.
    pub(super) tokens: usize,
    /// Whose they are.
    pub(super) arrival: u64,
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
    /// As it was asked for.
    priority: Priority,
    /// The priority, raised by each preemption, so that nobody is preempted for ever.
    pub(super) standing: Priority,
    params: Parameters,
    /// The prompt and the answer.
    tokens: Vec<TokenId>,
    prompt_len: usize,
    /// How many of the tokens are in the KV cache.
    cached: usize,
    /// How many of them another request computed.
    shared: usize,
    /// How many of those were restored.
    restored: usize,
    session: Option<Session>,
    /// The one that it waits for.
    follows: Option<Leader>,
    /// After how many tokens others that have cells part from it, where it could not be cut later.
    parting: Option<usize>,
    /// Whether it computes everything itself: the backend could not share cells with it.
    alone: bool,
    utf8: Utf8Stream,
    stops: StopMatcher,
    /// What it expects to come next; `None` where it is to have no drafts.
    drafter: Option<Drafter>,
    /// Whether the draft model guesses too.
    draft_model: bool,
    /// How well it does that here; `None` before it has.
    skill: Option<Skill>,
    drafts: Drafts,
    /// Whether what it lost is computed again in the pieces in which it was computed first.
    same_pieces: bool,
    /// Tokens of others' prompts that were read while its own waited.
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

    /// The same, which guesses what comes next, or lets the draft model do so.
    pub(super) fn drafting(self, draft_model: bool) -> Self {
        Self { drafter: Some(Drafter::default()), draft_model, ..self }
    }

    /// The same, of which the tokens of the answer are always computed one by one.
    pub(super) fn in_the_same_pieces(self) -> Self {
        Self { same_pieces: true, ..self }
    }

    /// The least of all is the first to be preempted: low priority, then late arrival.
    pub(super) fn rank(&self) -> (Priority, Reverse<u64>) {
        (self.standing, Reverse(self.arrival))
    }

    /// As it was asked for, whatever it has risen to.
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

    /// Whether a token of the answer was generated.
    pub(super) fn has_answer(&self) -> bool {
        self.tokens.len() > self.prompt_len
    }

    /// Tokens to be fed before the next can be sampled.
    pub(super) fn remaining(&self) -> usize {
        self.tokens.len() - self.cached
    }

    /// Tokens of others' prompts that were read while its own waited.
    pub(super) fn passed_by(&self) -> usize {
        self.passed_by
    }

    /// So many more were.
    pub(super) fn was_passed_by(&mut self, tokens: usize) {
        self.passed_by = self.passed_by.saturating_add(tokens);
    }

    /// The most tokens that it can be fed at once.
    pub(super) fn piece(&self) -> usize {
        match self.prompt_len.checked_sub(self.cached) {
            _ if !self.same_pieces => self.remaining(),
            None | Some(0) => 1,
            Some(prompt) => prompt,
        }
    }

    /// How likely guesses at its next tokens are to be right; `None` where it makes none.
    pub(super) fn outlook(&self) -> Option<Outlook> {
        self.drafter.as_ref().filter(|_| self.has_answer())?.outlook()
    }

    /// How likely the draft model is to be right, of which is thought so in `general`; `None` where
    /// it is not asked.
    pub(super) fn model_outlook(&self, general: Skill) -> Option<Outlook> {
        let asked = self.draft_model && self.has_answer();
        asked.then(|| self.skill.unwrap_or(general).outlook())
    }

    /// Of so many guesses of the draft model, so many came true.
    pub(super) fn guessed(&mut self, guesses: usize, right: usize, general: Skill) {
        self.skill.get_or_insert(general).observe(guesses, right);
    }

    /// A token came without the draft model.
    pub(super) fn not_guessed(&mut self) {
        if let Some(skill) = &mut self.skill {
            skill.fade();
        }
    }

    /// The draft model is not asked any more.
    pub(super) fn without_model(&mut self) {
        self.draft_model = false;
    }

    /// As many drafts of `n` as it may have: with the token that is sampled after them it must not
    /// generate more than it may.
    pub(super) fn most_drafts(&self, n: usize, n_ctx: usize) -> usize {
        n.min(self.may_generate(n_ctx).saturating_sub(1))
    }

    /// Adds `n` drafts to its next token; fewer where it may not generate so many tokens.
    pub(super) fn add_drafts(&self, feed: &mut Feed, n: usize, n_ctx: usize) {
        let n = self.most_drafts(n, n_ctx);
        if let Some(drafter) = &self.drafter {
            let drafts = drafter.drafts(&self.tokens, n);
            feed.drafts = drafts.len();
            feed.tokens.extend(drafts);
        }
    }

    /// Whether its next token is sampled by feeding it one.
    pub(super) fn decodes(&self) -> bool {
        self.remaining() == 1
    }

    /// The tokens of which others may have computed the cells: all but the last, after which a
    /// token is to be sampled. None if it computes everything itself.
    pub(super) fn sharable(&self) -> &[TokenId] {
        match self.tokens.split_last() {
            Some((_, before)) if !self.alone => before,
            _ => &[],
        }
    }

    /// Its first `tokens` tokens are cached now: another computed them.
    pub(super) fn joined(&mut self, tokens: usize) {
        let gained = tokens - self.cached;
        self.shared = (self.shared + gained).min(tokens);
        self.cached = tokens;
        self.follows = None;
    }

    /// Its first `tokens` tokens are cached now: they were saved at an earlier turn.
    pub(super) fn restored(&mut self, tokens: usize) {
        self.joined(tokens);
        self.restored = tokens;
    }

    /// What it was to begin with, saved of its session or parked, is of no use.
    pub(super) fn not_restored(&mut self) {
        if let Some(session) = self.session.as_mut().filter(|_| self.restored > 0) {
            session.saved.clear();
        }
        self.forget_cells();
    }

    /// The conversation that it is a turn of.
    pub(super) fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    fn forget_cells(&mut self) {
        (self.cached, self.shared, self.restored) = (0, 0, 0);
    }

    /// The backend could not share cells with it.
    pub(super) fn not_joined(&mut self) {
        self.forget_cells();
        self.alone = true;
    }

    /// Others part from it after so many tokens, if it is not there already. Returns whether it
    /// has just come to where they do.
    pub(super) fn part_at(&mut self, tokens: Option<usize>) -> bool {
        let parted = self.parting.is_some_and(|parting| parting == self.cached);
        self.parting = tokens.filter(|tokens| *tokens > self.cached);
        parted
    }

    /// How many tokens it is to be fed until others part from it.
    pub(super) fn until_parting(&self) -> usize {
        let parting = self.parting.and_then(|parting| parting.checked_sub(self.cached));
        parting.filter(|tokens| *tokens > 0).unwrap_or(usize::MAX)
    }

    /// It waits for another to compute what both need, or for nobody.
    pub(super) fn follow(&mut self, leader: Option<Leader>) {
        self.follows = leader;
    }

    /// How many tokens `leader` is to compute for this one.
    pub(super) fn awaits(&self, leader: &Self) -> Option<usize> {
        let follows = self.follows.filter(|follows| follows.arrival == leader.arrival)?;
        follows.tokens.checked_sub(leader.cached).filter(|tokens| *tokens > 0)
    }

    /// Whether it waits for another to compute what both need.
    pub(super) fn follows(&self) -> bool {
        self.follows.is_some()
    }

    /// Cells that it will need beyond those that it has: for the tokens that nobody else is about
    /// to compute, and for `headroom` tokens more if it may still generate so many.
    pub(super) fn needs(&self, n_ctx: usize, headroom: usize) -> usize {
        let others = self.follows.map_or(0, |leader| leader.tokens).max(self.cached);
        self.tokens.len() - others + headroom.min(self.may_generate(n_ctx))
    }

    /// The next `n` tokens, to be appended to `seq`.
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

    /// The tokens of `feed` are cached, but for drafts that did not come true; `sampled` tokens are
    /// to be accepted.
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

    /// Whether its answer has done nothing but repeat itself for as long as it may.
    fn is_stuck(&self) -> bool {
        let limit = self.params.repeat_limit.filter(|limit| *limit > 0);
        limit.is_some_and(|limit| only_repeats(&self.tokens[self.prompt_len..], limit as usize))
    }

    /// Forgets the cells; all tokens will be computed again.
    pub(super) fn preempt(&mut self) {
        self.forget_cells();
        (self.follows, self.parting) = (None, None);
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
            cached_tokens: count(self.shared.min(self.prompt_len)),
            restored_tokens: count(self.restored.min(self.prompt_len)),
        };
        Output::Finished { id: self.id, finish_reason, usage, drafts: self.drafts }
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
pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
