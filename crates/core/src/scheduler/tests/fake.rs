//! A backend that checks what it is asked, and a loop around it without threads and time.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::super::{Output, Request, Scheduler};
use crate::{
    BackendError, ErrorCode, Failure, FinishReason, Message, ModelBackend, ModelInfo, Parameters,
    Plan, Priority, Sampled, SeqId, TokenId,
};

/// Tokens from here on are answers.
const ANSWER: i32 = 1000;

/// A token that makes any forward pass fail that has it.
pub(super) const POISON: i32 = 666;

struct Open {
    tokens: Vec<TokenId>,
    /// Stands for the sampler's state: every answer depends on it.
    draws: u32,
}

/// Answers with as many tokens as the first token of the prompt says, each of which depends on
/// all tokens before it and on the sampler. It panics when asked what no scheduler may ask.
pub(super) struct Fake {
    info: ModelInfo,
    sequences: BTreeMap<SeqId, Open>,
    /// Cells that it really has.
    pub(super) cells: usize,
    pub(super) refuse_open: bool,
    pub(super) refuse_trim: bool,
    pub(super) mute: bool,
    pub(super) breaks: bool,
    pub(super) interrupts: bool,
    /// Every forward pass that was done.
    pub(super) passes: Vec<Plan>,
}

impl Fake {
    fn cells_used(&self) -> usize {
        self.sequences.values().map(|open| open.tokens.len()).sum()
    }

    fn check(&self, plan: &Plan) {
        assert!(plan.n_tokens() <= self.info.n_batch as usize, "over n_batch: {plan:?}");
        for (place, feed) in plan.feeds.iter().enumerate() {
            assert!(plan.feeds[..place].iter().all(|other| other.seq != feed.seq), "{plan:?}");
            assert!(!feed.tokens.is_empty(), "{plan:?}");
            let open = self.sequences.get(&feed.seq).expect("only open sequences are fed");
            assert_eq!(feed.start as usize, open.tokens.len());
        }
        let total = self.cells_used() + plan.n_tokens();
        assert!(total <= self.info.n_ctx as usize, "over n_ctx: {plan:?}");
    }
}

impl ModelBackend for Fake {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn render_chat(&self, _: &[Message]) -> Result<String, BackendError> {
        unreachable!("requests come tokenized")
    }

    fn tokenize(&self, _: &str) -> Result<Vec<TokenId>, BackendError> {
        unreachable!("requests come tokenized")
    }

    fn open(&mut self, seq: SeqId, _: &Parameters, _: &[TokenId]) -> Result<(), BackendError> {
        if self.refuse_open {
            return Err(Failure::new(ErrorCode::Inference, "no sampler").into());
        }
        let old = self.sequences.insert(seq, Open { tokens: Vec::new(), draws: 0 });
        assert!(old.is_none(), "{seq:?} is open already");
        assert!(self.sequences.len() <= self.info.n_seq_max as usize);
        Ok(())
    }

    fn forward(&mut self, plan: &Plan, sampled: &mut Vec<Sampled>) -> Result<(), BackendError> {
        self.check(plan);
        if self.breaks {
            return Err(BackendError::Broken("out of order".into()));
        }
        if self.interrupts {
            return Err(BackendError::Interrupted);
        }
        if plan.feeds.iter().any(|feed| feed.tokens.contains(&TokenId(POISON))) {
            return Err(Failure::new(ErrorCode::Inference, "poisoned").into());
        }
        if self.cells_used() + plan.n_tokens() > self.cells {
            return Err(BackendError::CacheFull);
        }
        for feed in &plan.feeds {
            let open = self.sequences.get_mut(&feed.seq).unwrap();
            open.tokens.extend(&feed.tokens);
            if !feed.sample || self.mute {
                continue;
            }
            let answered = open.tokens.iter().filter(|token| token.0 >= ANSWER).count();
            let end = answered as i32 == open.tokens[0].0;
            let mut hasher = DefaultHasher::new();
            (&open.tokens, open.draws).hash(&mut hasher);
            open.draws += 1;
            let token = TokenId(ANSWER + (hasher.finish() % 1000) as i32);
            let piece = if end { Vec::new() } else { format!("{} ", token.0).into_bytes() };
            sampled.push(Sampled { seq: feed.seq, token, end, piece });
        }
        self.passes.push(plan.clone());
        Ok(())
    }

    fn trim(&mut self, seq: SeqId, keep: u32) -> Result<(), BackendError> {
        let open = self.sequences.get_mut(&seq).expect("only open sequences are trimmed");
        if self.refuse_trim {
            return Err(Failure::new(ErrorCode::Inference, "no cutting").into());
        }
        open.tokens.truncate(keep as usize);
        Ok(())
    }

    fn close(&mut self, seq: SeqId) {
        assert!(self.sequences.remove(&seq).is_some(), "{seq:?} is not open");
    }
}

/// The usual ends.
pub(super) const STOPPED: [End; 1] = [End::Finished(FinishReason::Stop)];
pub(super) const CUT: [End; 1] = [End::Finished(FinishReason::Length)];
pub(super) const CANCELED: [End; 1] = [End::Finished(FinishReason::Canceled)];

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End {
    Finished(FinishReason),
    Failed(ErrorCode),
}

pub(super) struct Harness {
    pub(super) scheduler: Scheduler,
    pub(super) fake: Fake,
    pub(super) outputs: Vec<Output>,
    next_id: u64,
}

impl Harness {
    pub(super) fn new(n_ctx: u32, n_batch: u32, n_seq_max: u32) -> Self {
        let info = ModelInfo { n_ctx, n_batch, n_seq_max, ..ModelInfo::default() };
        Self {
            scheduler: Scheduler::new(&info),
            fake: Fake {
                info,
                sequences: BTreeMap::new(),
                cells: n_ctx as usize,
                refuse_open: false,
                refuse_trim: false,
                mute: false,
                breaks: false,
                interrupts: false,
                passes: Vec::new(),
            },
            outputs: Vec::new(),
            next_id: 0,
        }
    }

    /// A prompt of `length` tokens that is answered by `answer` tokens.
    pub(super) fn prompt(&self, length: usize, answer: usize) -> Vec<TokenId> {
        let salt = self.next_id as i32 % 100;
        let mut prompt = vec![TokenId(100 + salt); length];
        prompt[0] = TokenId(answer as i32);
        prompt
    }

    pub(super) fn submit_prompt(
        &mut self,
        prompt: Vec<TokenId>,
        params: Parameters,
        priority: Priority,
    ) -> Result<u64, Failure> {
        let id = self.next_id;
        self.next_id += 1;
        self.scheduler.submit(Request { id, prompt, params, priority })?;
        Ok(id)
    }

    pub(super) fn submit(&mut self, length: usize, answer: usize) -> u64 {
        self.submit_as(Priority::Normal, length, answer)
    }

    pub(super) fn submit_as(&mut self, priority: Priority, length: usize, answer: usize) -> u64 {
        let prompt = self.prompt(length, answer);
        self.submit_prompt(prompt, Parameters::default(), priority).unwrap()
    }

    pub(super) fn cancel(&mut self, id: u64) -> bool {
        self.scheduler.cancel(id, &mut self.outputs)
    }

    /// One step; gives the feeds that the backend was asked for.
    pub(super) fn step(&mut self) -> Plan {
        let mut step = self.scheduler.plan();
        let outcome = step.carry_out(&mut self.fake);
        let plan = step.forward.clone();
        self.scheduler.apply(step, outcome, &mut self.outputs);
        assert_eq!(self.fake.cells_used(), self.scheduler.cells_used() + self.dead_cells());
        plan
    }

    /// Cells of sequences that will be closed or trimmed before the next forward pass.
    fn dead_cells(&self) -> usize {
        let live = |seq: &SeqId| self.scheduler.running.contains_key(seq);
        let dead = self.fake.sequences.iter().filter(|(seq, _)| !live(seq));
        dead.map(|(_, open)| open.tokens.len()).sum()
    }

    /// Steps until there is nothing to do.
    pub(super) fn finish(&mut self) {
        for _ in 0..100_000 {
            if self.scheduler.is_idle() {
                assert!(self.fake.sequences.is_empty(), "a sequence was left open");
                return;
            }
            self.step();
        }
        panic!("no end in sight");
    }

    pub(super) fn text(&self, id: u64) -> String {
        let mut all = String::new();
        for output in &self.outputs {
            if let Output::Text { id: of, text } = output
                && *of == id
            {
                all.push_str(text);
            }
        }
        all
    }

    pub(super) fn words(&self, id: u64) -> usize {
        self.text(id).split_whitespace().count()
    }

    pub(super) fn ends(&self, id: u64) -> Vec<End> {
        let end = |output: &Output| match output {
            Output::Finished { id: of, finish_reason, .. } if *of == id => {
                Some(End::Finished(*finish_reason))
            }
            Output::Failed { id: of, failure } if *of == id => Some(End::Failed(failure.code)),
            _ => None,
        };
        self.outputs.iter().filter_map(end).collect()
    }
}

/// What is answered to `prompt` when nothing else runs and there is room for everything.
pub(super) fn answer_alone(prompt: Vec<TokenId>, params: Parameters) -> String {
    let mut alone = Harness::new(100_000, 64, 1);
    let id = alone.submit_prompt(prompt, params, Priority::Normal).unwrap();
    alone.finish();
    alone.text(id)
}
