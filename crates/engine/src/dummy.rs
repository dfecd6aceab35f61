//! The backend without a model: it answers with the words of the prompt. For tests and CI.
//!
//! The first 256 tokens of its vocabulary are bytes, which make up prompts. Token 256 + i is the
//! i-th word of an answer; which word that is depends on the sequence. As with a real model, its
//! next token follows only from the tokens in the cache, so wrongly shared cells change the answer.

mod answer;
mod cells;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::{DummyScript, EngineInfo, EngineOptions, Event, Load};
use threadrunner_core::{
    BackendError, Draft, DraftRequest, Drafted, ErrorCode, Failure, Memory, Message, ModelBackend,
    ModelInfo, Parameters, Plan, PrefixCache, Role, Sampled, SeqId, TokenId, Tool, ToolCall,
};

use crate::draft;
use crate::estimate::PARKED_PART;
use cells::{Cell, Cells};

/// The default context, in cells: more than anybody types.
const CONTEXT: u32 = 1 << 20;
/// The smallest context, chosen when memory is short.
const LEAST_CONTEXT: u32 = 512;
const BATCH: u32 = 2048;
const SEQUENCES: u32 = 8;
const DRAFTS: u32 = 15;
/// All sequences, including those in no forward pass: as many as llama.cpp has.
const ALL_SEQUENCES: u32 = 256;

/// The first token that is a word of an answer.
const FIRST_WORD: i32 = 256;

/// The variable that holds the script, in JSON, for an engine whose options have none.
const SCRIPT_VARIABLE: &str = "THREADRUNNER_DUMMY";

/// See [`crate::backends::with_model`].
///
/// # Errors
/// When the script asks for it or cannot be read, or a draft model cannot be used.
pub fn with_model(
    load: &Load,
    progress: &mut dyn FnMut(f32),
    serve: &mut dyn FnMut(&mut dyn ModelBackend, EngineInfo),
) -> Result<(), Failure> {
    let script = script(&load.options)?;
    draft::check(load)?;
    for tenth in 1..=10_u8 {
        thread::sleep(Duration::from_millis(script.load_ms) / 10);
        progress(f32::from(tenth) / 10.0);
    }
    if let Some(message) = &script.load_error {
        return Err(Failure::new(ErrorCode::ModelLoad, message)
            .hint("the dummy's script asked for this error"));
    }
    let deterministic = load.options.deterministic == Some(true);
    let n_seq_max = if deterministic { 1 } else { load.options.sequences.unwrap_or(SEQUENCES) };
    let n_ctx = context(load, &script);
    let shares = load.options.share_prefixes();
    let info = ModelInfo {
        name: load.model.name(),
        n_ctx,
        n_batch: load.options.batch.unwrap_or(BATCH),
        n_seq_max,
        n_seq_spare: ALL_SEQUENCES.saturating_sub(n_seq_max),
        n_seq_cached: u32::from(deterministic),
        prefix_cache: if shares { PrefixCache::Any } else { PrefixCache::None },
        n_parked: if shares { n_ctx / PARKED_PART } else { 0 },
        n_draft_max: match load.options.speculation {
            Some(true) | None if !deterministic => DRAFTS,
            _ => 0,
        },
        draft_repeatable: load.options.speculation_greedy == Some(true),
        draft_greedy: draft::greedy(load),
        draft_model: load.model.draft_name(),
        deterministic,
        chat_template: true,
        inputs: script.inputs.clone(),
        memory: memory(&script, n_ctx),
        ..ModelInfo::default()
    };
    let engine = EngineInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        build: "dummy".into(),
        system_info: String::new(),
        threads: 1,
    };
    serve(&mut Dummy::new(info, script), engine);
    Ok(())
}

/// See [`crate::backends::size`].
///
/// # Errors
/// When the script cannot be read, or a draft model cannot be used.
pub fn size(load: &Load) -> Result<Event, Failure> {
    let script = script(&load.options)?;
    draft::check(load)?;
    let wanted = load.options.context.unwrap_or(CONTEXT);
    let least = load.options.context.unwrap_or(LEAST_CONTEXT);
    Ok(Event::Sized { wanted: memory(&script, wanted), least: memory(&script, least) })
}

/// The memory that it claims to take.
fn memory(script: &DummyScript, context: u32) -> Memory {
    let cache = script.cell_bytes.saturating_mul(context.into());
    Memory { weights: script.memory_bytes, cache, ..Memory::default() }
}

/// The context that the options ask for; else the default, or as much of it as memory allows.
fn context(load: &Load, script: &DummyScript) -> u32 {
    let fits = |bytes: u64| {
        let cells = bytes.saturating_sub(script.memory_bytes).checked_div(script.cell_bytes);
        let cells = cells.and_then(|cells| u32::try_from(cells).ok()).unwrap_or(CONTEXT);
        cells.clamp(LEAST_CONTEXT, CONTEXT)
    };
    load.options.context.unwrap_or_else(|| load.memory.map_or(CONTEXT, fits))
}

fn script(options: &EngineOptions) -> Result<DummyScript, Failure> {
    options.dummy.clone().map_or_else(script_from_environment, Ok)
}

fn script_from_environment() -> Result<DummyScript, Failure> {
    let Some(json) = std::env::var_os(SCRIPT_VARIABLE) else { return Ok(DummyScript::default()) };
    serde_json::from_slice(json.as_encoded_bytes()).map_err(|error| {
        let message = format!("cannot read {SCRIPT_VARIABLE} as a script for the dummy: {error}");
        Failure::new(ErrorCode::Config, message)
            .hint(format!("unset it, or set it to JSON such as {SCRIPT_EXAMPLE}"))
    })
}

const SCRIPT_EXAMPLE: &str = r#"{"step_ms":10,"words":100}"#;

struct Dummy {
    info: ModelInfo,
    script: DummyScript,
    sequences: BTreeMap<SeqId, Sequence>,
    cells: Cells,
}

#[derive(Default)]
struct Sequence {
    /// Set when the first word is sampled, cleared when tokens are forgotten.
    answer: Option<Vec<String>>,
    /// The cached tokens and their cells.
    cached: Vec<Cell>,
    /// The number of cached words of the answer.
    words: usize,
}

/// Counts the words of an answer among these tokens.
fn words_in<'a>(tokens: impl IntoIterator<Item = &'a TokenId>) -> usize {
    tokens.into_iter().filter(|token| token.0 >= FIRST_WORD).count()
}

impl ModelBackend for Dummy {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Returns the names of the tools and the user's last message, or the whole conversation if the
    /// script asks for it.
    fn render_chat(&self, messages: &[Message], tools: &[Tool]) -> Result<String, BackendError> {
        thread::sleep(Duration::from_millis(self.script.template_ms));
        std::hint::black_box(vec![0_u8; self.script.template_bytes]);
        if let Some(word) = &self.script.template_panic {
            let contains =
                |message: &&Message| message.content.texts().any(|text| text.contains(word));
            let said = messages.iter().find(contains);
            assert!(said.is_none(), "the dummy's script asked to panic at {said:?}");
        }
        let tools: String =
            tools.iter().filter_map(Tool::name).map(|name| name.to_owned() + " ").collect();
        if self.script.transcript {
            let called = |call: &ToolCall| match call {
                ToolCall::Function { function, .. } => format!(" [{}]", function.name),
                ToolCall::Unknown(_) => String::new(),
            };
            let said = |message: &Message| {
                let role = format!("{:?}", message.role).to_lowercase();
                let calls: String = message.tool_calls().iter().map(called).collect();
                format!("{role} {}{calls}\n", message.content)
            };
            return Ok(tools + &messages.iter().map(said).collect::<String>());
        }
        let last = messages.iter().rev().find(|message| message.role == Role::User);
        Ok(last.map_or(tools.clone(), |message| format!("{tools}{}", message.content)))
    }

    fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, BackendError> {
        Ok(text.bytes().map(|byte| TokenId(byte.into())).collect())
    }

    fn open(&mut self, seq: SeqId, _: &Parameters, _: &[TokenId]) -> Result<(), BackendError> {
        self.close(seq);
        self.sequences.insert(seq, Sequence::default());
        Ok(())
    }

    fn forward(&mut self, plan: &Plan, sampled: &mut Vec<Sampled>) -> Result<(), BackendError> {
        if self.cells.used() + plan.n_tokens() > self.info.n_ctx as usize {
            return Err(BackendError::CacheFull);
        }
        let mut words = Vec::with_capacity(plan.feeds.len());
        for feed in &plan.feeds {
            let sequence = self.sequences.get(&feed.seq);
            let sequence = sequence.filter(|s| s.cached.len() == feed.start as usize);
            let sequence = sequence.ok_or_else(|| {
                BackendError::Broken(format!("{:?} is not at {}", feed.seq, feed.start))
            })?;
            let generated = sequence.words + words_in(&feed.tokens[..feed.known()]);
            if feed.sample {
                self.follow_script(generated)?;
            }
            words.push(generated);
        }
        thread::sleep(Duration::from_millis(self.script.step_ms));
        for (feed, generated) in plan.feeds.iter().zip(words) {
            let Some(sequence) = self.sequences.get_mut(&feed.seq) else { continue };
            let known = feed.tokens.iter().take(feed.known());
            sequence.cached.extend(known.map(|token| self.cells.compute(*token)));
            sequence.words = generated;
            for draft in 0..if feed.sample { 1 + feed.drafts } else { 0 } {
                let word = sequence.sample(feed.seq, sequence.words, &self.script);
                let came_true = feed.came_true(draft, &word);
                if came_true {
                    sequence.cached.push(self.cells.compute(word.token));
                    sequence.words += 1;
                }
                sampled.push(word);
                if !came_true {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Guesses the next words, except for those that the script makes wrong.
    fn draft(&mut self, requests: &[DraftRequest]) -> Drafted {
        let start = Instant::now();
        let guess = |request: &DraftRequest| {
            let said = words_in(&request.tokens);
            let word = |word: usize| {
                let wrong = self.script.draft_wrong > 0
                    && (word + 1).is_multiple_of(self.script.draft_wrong as usize);
                let word = i32::try_from(word).unwrap_or(0);
                TokenId(FIRST_WORD + word + i32::from(wrong))
            };
            Draft::Tokens((said..said + request.n).map(word).collect())
        };
        Drafted { drafts: requests.iter().map(guess).collect(), took: start.elapsed() }
    }

    fn copy(&mut self, from: SeqId, to: SeqId, tokens: u32) -> Result<(), BackendError> {
        self.trim(to, 0)?;
        let donor = self.sequences.get(&from).and_then(|from| from.cached.get(..tokens as usize));
        let shared = donor.map(<[Cell]>::to_vec).ok_or_else(|| {
            let message = format!("{from:?} has fewer than {tokens} tokens");
            Failure::new(ErrorCode::Internal, message)
        })?;
        if let Some(to) = self.sequences.get_mut(&to) {
            shared.iter().for_each(|cell| self.cells.hold(cell));
            to.words = words_in(shared.iter().map(|cell| &cell.token));
            to.cached = shared;
        }
        Ok(())
    }

    fn trim(&mut self, seq: SeqId, keep: u32) -> Result<(), BackendError> {
        if let Some(sequence) = self.sequences.get_mut(&seq) {
            let keep = sequence.cached.len().min(keep as usize);
            sequence.cached.drain(keep..).for_each(|cell| self.cells.release(&cell));
            sequence.words = words_in(sequence.cached.iter().map(|cell| &cell.token));
            sequence.answer = None;
        }
        Ok(())
    }

    fn close(&mut self, seq: SeqId) {
        if let Some(sequence) = self.sequences.remove(&seq) {
            sequence.cached.iter().for_each(|cell| self.cells.release(cell));
        }
    }

    fn state_format(&self) -> Option<String> {
        Some("dummy".to_owned())
    }

    /// Saves the cached tokens.
    fn save(&mut self, seq: SeqId, most: usize) -> Result<Option<Vec<u8>>, BackendError> {
        let cached = self.sequences.get(&seq).map(|sequence| sequence.cached.as_slice());
        let tokens = cached.unwrap_or_default().iter().map(|cell| cell.token);
        let state: Vec<u8> = tokens.flat_map(|token| token.0.to_le_bytes()).collect();
        Ok((state.len() <= most).then_some(state))
    }

    fn restore(&mut self, seq: SeqId, tokens: u32, state: &[u8]) -> Result<(), BackendError> {
        self.trim(seq, 0)?;
        let (cells, rest) = state.as_chunks();
        let room = (self.info.n_ctx as usize).saturating_sub(self.cells.used());
        if !rest.is_empty() || cells.len() != tokens as usize || cells.len() > room {
            let message = format!("{} bytes are not the state of {tokens} tokens", state.len());
            return Err(Failure::new(ErrorCode::Internal, message).into());
        }
        let Some(sequence) = self.sequences.get_mut(&seq) else {
            return Err(BackendError::Broken(format!("{seq:?} is not open")));
        };
        let token = |bytes: &[u8; 4]| TokenId(i32::from_le_bytes(*bytes));
        sequence.cached = cells.iter().map(|cell| self.cells.restore(token(cell))).collect();
        sequence.words = words_in(sequence.cached.iter().map(|cell| &cell.token));
        Ok(())
    }
}

impl Dummy {
    fn new(info: ModelInfo, script: DummyScript) -> Self {
        Self { info, script, sequences: BTreeMap::new(), cells: Cells::default() }
    }

    /// Fails or aborts if the script asks for that after this many words.
    fn follow_script(&self, generated: usize) -> Result<(), BackendError> {
        let reached = |after: Option<u32>| after.is_some_and(|after| generated >= after as usize);
        if reached(self.script.abort_after) {
            tracing::error!("the dummy's script asked to abort after {generated} tokens");
            std::process::abort();
        }
        if reached(self.script.fail_after) {
            let message = format!("the dummy's script asked to fail after {generated} tokens");
            return Err(Failure::new(ErrorCode::Inference, message).into());
        }
        Ok(())
    }
}

impl Sequence {
    fn sample(&mut self, seq: SeqId, generated: usize, script: &DummyScript) -> Sampled {
        let cached = &self.cached;
        let answer = self.answer.get_or_insert_with(|| match script.words {
            Some(words) => answer::of_length(words),
            None => {
                let bytes = cached.iter().filter_map(|cell| u8::try_from(cell.token.0).ok());
                answer::to(&String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()))
            }
        });
        let place = match generated.checked_sub(answer.len()) {
            Some(beyond) if !script.loops.is_empty() => answer.len() + beyond % script.loops.len(),
            _ => generated,
        };
        let token = TokenId(FIRST_WORD + i32::try_from(place).unwrap_or(0));
        let word = answer.iter().chain(&script.loops).nth(place);
        let piece = match word {
            Some(word) if generated == 0 => word.clone(),
            Some(word) => format!(" {word}"),
            None => String::new(),
        };
        Sampled { seq, token, end: word.is_none(), piece: piece.into_bytes() }
    }
}
