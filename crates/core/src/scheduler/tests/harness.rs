//! A loop around the fake backend, without threads or time.

use std::collections::BTreeMap;

use super::super::tree::Hold;
use super::super::{Change, Output, ParkedStates, Request, SavedStates, Scheduler, Session};
use super::fake::{Fake, distinct};
use crate::engine_protocol::EngineRequestId;
use crate::{
    CacheName, ErrorCode, Failure, FinishReason, ModelInfo, Parameters, Plan, PrefixCache,
    Priority, SeqId, TokenId, Usage,
};

/// The states of sessions, by name.
#[derive(Default)]
pub(super) struct States {
    pub(super) saved: BTreeMap<String, (Vec<TokenId>, Vec<u8>)>,
    /// How often a state was written, and read.
    pub(super) written: usize,
    pub(super) read: usize,
}

impl SavedStates for States {
    fn most_bytes(&self) -> usize {
        4 * 100
    }

    fn read(&mut self, session: &CacheName, tokens: &[TokenId]) -> Option<Vec<u8>> {
        self.read += 1;
        let (of, state) = self.saved.get(session.as_str())?;
        (of == tokens).then(|| state.clone())
    }

    fn write(&mut self, session: &CacheName, tokens: &[TokenId], state: &[u8]) {
        assert_eq!(state.len(), 4 * tokens.len(), "the state of other tokens");
        let cells = state.chunks(4).map(|cell| i32::from_le_bytes(cell.try_into().unwrap()));
        assert!(tokens.iter().map(|token| token.0).eq(cells), "the state of other tokens");
        self.written += 1;
        self.saved.insert(session.to_string(), (tokens.to_vec(), state.to_vec()));
    }
}

/// The usual ends.
pub(super) const STOPPED: [End; 1] = [End::Finished(FinishReason::Stop)];
pub(super) const CUT: [End; 1] = [End::Finished(FinishReason::Length)];
pub(super) const CANCELED: [End; 1] = [End::Finished(FinishReason::Canceled)];

/// How a request ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End {
    Finished(FinishReason),
    Failed(ErrorCode),
}

pub(super) struct Harness {
    pub(super) scheduler: Scheduler,
    pub(super) fake: Fake,
    pub(super) states: States,
    pub(super) parked: ParkedStates,
    pub(super) outputs: Vec<Output>,
    next_id: u64,
}

impl Harness {
    pub(super) fn new(n_ctx: u32, n_batch: u32, n_seq_max: u32) -> Self {
        let (n_seq_spare, prefix_cache) = (8, PrefixCache::Any);
        let info = ModelInfo { n_ctx, n_batch, n_seq_max, n_seq_spare, ..ModelInfo::default() };
        Self::of(ModelInfo { prefix_cache, ..info })
    }

    /// A harness with 200 cells, which reads 64 tokens at once and answers two requests at a time.
    pub(super) fn small(prefix_cache: PrefixCache, n_parked: u32) -> Self {
        let info = ModelInfo { n_ctx: 200, n_batch: 64, n_seq_max: 2, ..ModelInfo::default() };
        Self::of(ModelInfo { n_seq_spare: 8, prefix_cache, n_parked, ..info })
    }

    pub(super) fn of(info: ModelInfo) -> Self {
        Self {
            scheduler: Scheduler::new(&info),
            fake: Fake::new(info),
            states: States::default(),
            parked: ParkedStates::default(),
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
    ) -> Result<EngineRequestId, Failure> {
        self.submit_turn(None, prompt, params, priority)
    }

    /// Submits a turn of `session`, with what was saved of it.
    pub(super) fn submit_turn(
        &mut self,
        session: Option<&str>,
        prompt: Vec<TokenId>,
        params: Parameters,
        priority: Priority,
    ) -> Result<EngineRequestId, Failure> {
        let id = EngineRequestId(self.next_id);
        self.next_id += 1;
        let session = session.map(|name| {
            let saved = self.states.saved.get(name).map(|(tokens, _)| tokens.clone());
            Session { name: name.into(), saved: saved.unwrap_or_default() }
        });
        self.scheduler.submit(Request { id, prompt, params, priority, session })?;
        Ok(id)
    }

    /// Saves one session, if any is unsaved.
    pub(super) fn save_one(&mut self) {
        if let Some(mut step) = self.scheduler.save_next() {
            let outcome = step.carry_out_with(&mut self.fake, &mut self.states, &mut self.parked);
            self.scheduler.apply(step, outcome, &mut self.outputs);
            self.compare();
        }
    }

    /// Saves all unsaved sessions.
    pub(super) fn save_all(&mut self) {
        while self.scheduler.has_unsaved() {
            self.save_one();
        }
    }

    /// A new harness that keeps only the saved states and the outputs.
    pub(super) fn restarted(self) -> Self {
        let Self { fake, states, outputs, next_id, .. } = self;
        Self { states, outputs, next_id, ..Self::of(fake.info) }
    }

    pub(super) fn submit(&mut self, length: usize, answer: usize) -> EngineRequestId {
        self.submit_as(Priority::Normal, length, answer)
    }

    pub(super) fn submit_as(
        &mut self,
        priority: Priority,
        length: usize,
        answer: usize,
    ) -> EngineRequestId {
        let prompt = self.prompt(length, answer);
        self.submit_prompt(prompt, Parameters::default(), priority).unwrap()
    }

    pub(super) fn cancel(&mut self, id: EngineRequestId) -> bool {
        self.scheduler.cancel(id, &mut self.outputs)
    }

    /// Runs one step; returns its forward pass.
    pub(super) fn step(&mut self) -> Plan {
        let mut step = self.scheduler.plan();
        let outcome = step.carry_out_with(&mut self.fake, &mut self.states, &mut self.parked);
        let plan = step.forward.clone();
        self.scheduler.apply(step, outcome, &mut self.outputs);
        self.compare();
        plan
    }

    /// Checks that the scheduler and the backend agree on all cells, pending changes included.
    fn compare(&self) {
        let mut sequences = self.fake.sequences.clone();
        let mut parked = self.parked.len();
        for change in &self.scheduler.changes {
            match change {
                Change::Close { seq } => drop(sequences.remove(seq)),
                Change::Trim { seq, keep } => {
                    sequences.get_mut(seq).unwrap().cells.truncate(*keep as usize);
                }
                Change::Save { seq, tokens, .. } => {
                    assert_eq!(sequences[seq].cells.len(), tokens.len());
                }
                Change::Park { .. } => parked += 1,
                Change::Discard { .. } => parked -= 1,
                change => panic!("{change:?} was decided on outside of a plan"),
            }
        }
        for (seq, open) in &sequences {
            assert_eq!(self.scheduler.tree.cached(*seq), open.cells.len(), "{seq:?}");
        }
        assert_eq!(self.scheduler.cells_used(), distinct(&sequences));
        let texts = self.scheduler.parked.texts();
        assert_eq!(texts.len(), parked, "a state was left behind, or lost");
        assert!(texts.concat().len() <= self.fake.info.n_parked as usize);
    }

    /// Whether exactly `n` answers are in progress.
    pub(super) fn answers_under_way(&self, n: usize) -> bool {
        self.scheduler.running.values().filter(|sequence| sequence.decodes()).count() == n
    }

    /// Steps until there is nothing to do.
    pub(super) fn finish(&mut self) {
        for _ in 0..100_000 {
            if self.scheduler.is_idle() {
                self.compare();
                let kept: Vec<SeqId> = self.scheduler.tree.kept().collect();
                assert!(self.fake.sequences.keys().eq(&kept), "a sequence was left open");
                return;
            }
            self.step();
        }
        panic!("no end in sight");
    }

    pub(super) fn text(&self, id: EngineRequestId) -> String {
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

    pub(super) fn words(&self, id: EngineRequestId) -> usize {
        self.text(id).split_whitespace().count()
    }

    /// The number of sequences that were leaked.
    pub(super) fn sequences_lost(&self) -> usize {
        let all = (self.fake.info.n_seq_max + self.fake.info.n_seq_spare) as usize;
        let scheduler = &self.scheduler;
        let paused = all_of(Hold::Paused, scheduler) + all_of(Hold::Kept, scheduler);
        all - scheduler.free.len() - scheduler.running.len() - paused
    }

    /// How many tokens of its prompt a finished request did not compute.
    pub(super) fn cached(&self, id: EngineRequestId) -> Option<u32> {
        self.usage(id).map(|usage| usage.cached_tokens)
    }

    /// The token counts of a finished request.
    pub(super) fn usage(&self, id: EngineRequestId) -> Option<Usage> {
        self.outputs.iter().find_map(|output| match output {
            Output::Finished { id: of, usage, .. } if *of == id => Some(*usage),
            _ => None,
        })
    }

    pub(super) fn ends(&self, id: EngineRequestId) -> Vec<End> {
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

fn all_of(hold: Hold, scheduler: &Scheduler) -> usize {
    (0..1000).filter(|seq| scheduler.tree.hold(SeqId(*seq)) == Some(hold)).count()
}

/// The answer to `prompt` when nothing else runs and there is room for everything.
pub(super) fn answer_alone(prompt: Vec<TokenId>, params: Parameters) -> String {
    answer_in_words(prompt, params, 1000)
}

/// The same, with this many different words.
pub(super) fn answer_in_words(prompt: Vec<TokenId>, params: Parameters, words: u64) -> String {
    let mut alone = Harness::new(100_000, 64, 1);
    alone.fake.words = words;
    let id = alone.submit_prompt(prompt, params, Priority::Normal).unwrap();
    alone.finish();
    alone.text(id)
}
