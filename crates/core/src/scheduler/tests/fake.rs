//! A fake backend that checks every call.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::{
    BackendError, Draft, DraftRequest, Drafted, ErrorCode, Failure, Message, ModelBackend,
    ModelInfo, Parameters, Plan, PrefixCache, Sampled, SeqId, TokenId, Tool,
};

/// Tokens from here on are answers.
const ANSWER: i32 = 1000;

/// A token that fails any forward pass it is in.
pub(super) const POISON: i32 = 666;

#[derive(Clone)]
pub(super) struct Open {
    /// The cells and their tokens. Several sequences may hold the same cell.
    pub(super) cells: Vec<(u64, TokenId)>,
    /// The most cells it ever had.
    longest: usize,
    /// Stands in for the sampler's state, on which every answer depends.
    draws: u32,
}

impl Open {
    fn sample(&mut self, seq: SeqId, words: u64) -> Sampled {
        let tokens: Vec<TokenId> = self.cells.iter().map(|(_, token)| *token).collect();
        let answered = tokens.iter().filter(|token| token.0 >= ANSWER).count();
        let end = answered as i32 == tokens[0].0;
        let mut hasher = DefaultHasher::new();
        (&tokens, self.draws).hash(&mut hasher);
        self.draws += 1;
        let token = TokenId(ANSWER + (hasher.finish() % words) as i32);
        let piece = if end { Vec::new() } else { format!("{} ", token.0).into_bytes() };
        Sampled { seq, token, end, piece }
    }
}

/// Answers with as many tokens as the first token of the prompt says. Each depends on all tokens
/// before it and on the sampler. Panics on calls that no scheduler may make.
pub(super) struct Fake {
    pub(super) info: ModelInfo,
    pub(super) sequences: BTreeMap<SeqId, Open>,
    /// The number of cells it really has.
    pub(super) cells: usize,
    pub(super) refuse_open: bool,
    pub(super) refuse_trim: bool,
    pub(super) refuse_copy: bool,
    pub(super) refuse_restore: bool,
    pub(super) mute: bool,
    pub(super) breaks: bool,
    pub(super) interrupts: bool,
    /// The number of different tokens in its answers; the fewer, the more they repeat themselves.
    pub(super) words: u64,
    /// Every n-th token of its draft model is wrong: with 1 all, with 0 none.
    pub(super) draft_wrong: usize,
    /// What its draft model replies instead of guessing.
    pub(super) draft_says: Option<Draft>,
    /// How long each guess in a row takes.
    pub(super) draft_takes: Duration,
    /// What its draft model was asked.
    pub(super) guesses: Vec<(SeqId, usize)>,
    /// Every forward pass so far.
    pub(super) passes: Vec<Plan>,
    next_cell: u64,
}

/// The number of different cells in these sequences.
pub(super) fn distinct(sequences: &BTreeMap<SeqId, Open>) -> usize {
    let cells = sequences.values().flat_map(|open| open.cells.iter().map(|(cell, _)| *cell));
    cells.collect::<BTreeSet<_>>().len()
}

impl Fake {
    pub(super) fn new(info: ModelInfo) -> Self {
        Self {
            cells: info.n_ctx as usize,
            info,
            sequences: BTreeMap::new(),
            refuse_open: false,
            refuse_trim: false,
            refuse_copy: false,
            refuse_restore: false,
            mute: false,
            breaks: false,
            interrupts: false,
            words: 1000,
            draft_wrong: 0,
            draft_says: None,
            draft_takes: Duration::from_millis(1),
            guesses: Vec::new(),
            passes: Vec::new(),
            next_cell: 0,
        }
    }

    fn cells_used(&self) -> usize {
        distinct(&self.sequences)
    }

    /// The number of tokens computed so far.
    pub(super) fn computed(&self) -> usize {
        self.passes.iter().map(Plan::n_tokens).sum()
    }

    /// The tokens it will answer, except that every n-th is wrong.
    fn guess(&mut self, request: &DraftRequest) -> Draft {
        let DraftRequest { seq, tokens, n } = request;
        assert!(*n > 0);
        self.guesses.push((*seq, *n));
        if let Some(said) = &self.draft_says {
            return said.clone();
        }
        let mut open = self.sequences[seq].clone();
        let cached = open.cells.len();
        assert!(tokens.iter().zip(&open.cells).all(|(token, (_, cached))| token == cached));
        assert_eq!(tokens.len(), cached + 1, "it does not decode");
        let mut guesses = Vec::new();
        let mut token = tokens[cached];
        for _ in 0..*n {
            open.cells.push((0, token));
            let next = open.sample(*seq, self.words).token;
            let place = open.cells.len();
            let wrong = self.draft_wrong > 0 && place.is_multiple_of(self.draft_wrong);
            token = if wrong { TokenId(next.0 + 1) } else { next };
            guesses.push(token);
        }
        Draft::Tokens(guesses)
    }

    fn check(&self, plan: &Plan) {
        assert!(plan.n_tokens() <= self.info.n_batch as usize, "over n_batch: {plan:?}");
        assert!(plan.feeds.len() <= self.info.n_seq_max as usize, "over n_seq_max: {plan:?}");
        if self.info.n_seq_cached > 0 {
            let holding = self.sequences.values().filter(|open| !open.cells.is_empty()).count();
            assert!(holding <= self.info.n_seq_cached as usize, "too many sequences with cells");
        }
        for (place, feed) in plan.feeds.iter().enumerate() {
            assert!(plan.feeds[..place].iter().all(|other| other.seq != feed.seq), "{plan:?}");
            assert!(!feed.tokens.is_empty(), "{plan:?}");
            let open = self.sequences.get(&feed.seq).expect("only open sequences are fed");
            assert_eq!(feed.start as usize, open.cells.len());
        }
        if self.info.deterministic {
            let holding = self.sequences.iter().filter(|(_, open)| !open.cells.is_empty());
            assert!(holding.map(|(seq, _)| *seq).all(|seq| seq == plan.feeds[0].seq), "{plan:?}");
        }
        let drafts: usize = plan.feeds.iter().map(|feed| feed.drafts).sum();
        assert!(drafts <= self.info.n_draft_max as usize, "over n_draft_max: {plan:?}");
        let total = self.cells_used() + plan.n_tokens();
        assert!(total <= self.info.n_ctx as usize, "over n_ctx: {plan:?}");
    }
}

impl ModelBackend for Fake {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn render_chat(&self, _: &[Message], _: &[Tool]) -> Result<String, BackendError> {
        unreachable!("requests come tokenized")
    }

    fn tokenize(&self, _: &str) -> Result<Vec<TokenId>, BackendError> {
        unreachable!("requests come tokenized")
    }

    fn open(&mut self, seq: SeqId, _: &Parameters, _: &[TokenId]) -> Result<(), BackendError> {
        if self.refuse_open {
            return Err(Failure::new(ErrorCode::Inference, "no sampler").into());
        }
        let old = self.sequences.insert(seq, Open { cells: Vec::new(), longest: 0, draws: 0 });
        assert!(old.is_none(), "{seq:?} is open already");
        assert!(seq.0 < self.info.n_seq_max + self.info.n_seq_spare);
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
            assert!(feed.drafts == 0 || (feed.sample && feed.known() > 0), "{plan:?}");
            for token in &feed.tokens[..feed.known()] {
                self.next_cell += 1;
                open.cells.push((self.next_cell, *token));
            }
            for draft in 0..=feed.drafts {
                if !feed.sample || self.mute {
                    break;
                }
                let next = open.sample(feed.seq, self.words);
                let came_true = feed.came_true(draft, &next);
                if came_true {
                    self.next_cell += 1;
                    open.cells.push((self.next_cell, next.token));
                }
                sampled.push(next);
                if !came_true {
                    break;
                }
            }
            open.longest = open.longest.max(open.cells.len());
        }
        self.passes.push(plan.clone());
        Ok(())
    }

    fn draft(&mut self, requests: &[DraftRequest]) -> Drafted {
        assert!(self.info.draft_model.is_some() && !requests.is_empty());
        let asked: usize = requests.iter().map(|request| request.n).sum();
        assert!(asked <= self.info.n_draft_max as usize, "{requests:?}");
        let drafts = requests.iter().map(|request| self.guess(request)).collect();
        let passes = requests.iter().map(|request| request.n).max().unwrap() as u32;
        Drafted { drafts, took: self.draft_takes * passes }
    }

    fn copy(&mut self, from: SeqId, to: SeqId, tokens: u32) -> Result<(), BackendError> {
        let n = tokens as usize;
        assert!(self.sequences.contains_key(&to), "{to:?} is not open");
        self.sequences.get_mut(&to).unwrap().cells.clear();
        let there = self.sequences.get(&from).filter(|donor| donor.cells.len() >= n);
        let Some(donor) = there.filter(|_| !self.refuse_copy) else {
            assert!(self.refuse_copy, "{from:?} has no {n} tokens");
            return Err(Failure::new(ErrorCode::Inference, "no copying").into());
        };
        match self.info.prefix_cache {
            PrefixCache::None => panic!("nothing can be shared"),
            PrefixCache::Window(window) => {
                let intact = donor.cells.len() == n || donor.longest <= window as usize;
                assert!(intact, "{n} of {} tokens", donor.cells.len());
            }
            PrefixCache::Any => {}
        }
        let cells = donor.cells[..n].to_vec();
        let to = self.sequences.get_mut(&to).unwrap();
        (to.cells, to.longest) = (cells, n);
        Ok(())
    }

    fn trim(&mut self, seq: SeqId, keep: u32) -> Result<(), BackendError> {
        let open = self.sequences.get_mut(&seq).expect("only open sequences are trimmed");
        if self.refuse_trim {
            return Err(Failure::new(ErrorCode::Inference, "no cutting").into());
        }
        assert!(keep == 0 || self.info.prefix_cache == PrefixCache::Any, "it cannot be cut");
        open.cells.truncate(keep as usize);
        // Tokens fed from now on overwrite nothing.
        open.longest = if keep == 0 { 0 } else { open.longest };
        Ok(())
    }

    fn close(&mut self, seq: SeqId) {
        assert!(self.sequences.remove(&seq).is_some(), "{seq:?} is not open");
    }

    fn save(&mut self, seq: SeqId, most: usize) -> Result<Option<Vec<u8>>, BackendError> {
        let open = self.sequences.get(&seq).expect("only open sequences are saved");
        let state: Vec<u8> =
            open.cells.iter().flat_map(|(_, token)| token.0.to_le_bytes()).collect();
        Ok((state.len() <= most).then_some(state))
    }

    fn restore(&mut self, seq: SeqId, tokens: u32, state: &[u8]) -> Result<(), BackendError> {
        let open = self.sequences.get(&seq).expect("only open sequences are restored");
        assert!(open.cells.is_empty(), "{seq:?} has cells");
        let n = tokens as usize;
        assert_eq!(state.len(), n * 4);
        assert!(self.cells_used() + n <= self.info.n_ctx as usize, "over n_ctx");
        if self.refuse_restore || self.cells_used() + n > self.cells {
            return Err(Failure::new(ErrorCode::Inference, "no restoring").into());
        }
        let open = self.sequences.get_mut(&seq).unwrap();
        for token in state.chunks(4) {
            self.next_cell += 1;
            let token = TokenId(i32::from_le_bytes(token.try_into().unwrap()));
            open.cells.push((self.next_cell, token));
        }
        open.longest = n;
        Ok(())
    }
}
