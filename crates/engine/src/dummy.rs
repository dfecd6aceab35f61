//! The backend without a model: it answers with the words of the prompt. For tests and CI.
//!
//! In its vocabulary the first 256 tokens are bytes, of which prompts are made; token 256 + i is
//! the i-th word of an answer, which depends on the sequence. So what it answers next follows from
//! the tokens in the cache alone, as with a real model.

mod answer;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use threadrunner_core::engine_protocol::{DummyScript, EngineInfo, Load};
use threadrunner_core::{
    BackendError, ErrorCode, Failure, Message, ModelBackend, ModelInfo, Parameters, Plan, Role,
    Sampled, SeqId, TokenId,
};

/// Cells of the cache, unless the options say otherwise: more than anybody types.
const CONTEXT: u32 = 1 << 20;
const BATCH: u32 = 2048;
const SEQUENCES: u32 = 8;

/// The first token that is a word of an answer.
const FIRST_WORD: i32 = 256;

/// Names the script, in JSON, for an engine whose options have none.
const SCRIPT_VARIABLE: &str = "THREADRUNNER_DUMMY";

/// See [`crate::backends::with_model`].
///
/// # Errors
/// The script says so, or there is a script and it cannot be read.
pub fn with_model(
    load: &Load,
    progress: &mut dyn FnMut(f32),
    serve: &mut dyn FnMut(&mut dyn ModelBackend, EngineInfo),
) -> Result<(), Failure> {
    let script = match &load.options.dummy {
        Some(script) => script.clone(),
        None => script_from_environment()?,
    };
    for tenth in 1..=10_u8 {
        thread::sleep(Duration::from_millis(script.load_ms) / 10);
        progress(f32::from(tenth) / 10.0);
    }
    if let Some(message) = &script.load_error {
        return Err(Failure::new(ErrorCode::ModelLoad, message)
            .hint("The dummy's script asked for this error."));
    }
    let info = ModelInfo {
        name: load.model.name(),
        n_ctx: load.options.context.unwrap_or(CONTEXT),
        n_batch: load.options.batch.unwrap_or(BATCH),
        n_seq_max: load.options.sequences.unwrap_or(SEQUENCES),
        chat_template: true,
        ..ModelInfo::default()
    };
    let engine = EngineInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        build: "dummy".into(),
        system_info: String::new(),
        threads: 1,
    };
    serve(&mut Dummy { info, script, sequences: BTreeMap::new() }, engine);
    Ok(())
}

fn script_from_environment() -> Result<DummyScript, Failure> {
    let Some(json) = std::env::var_os(SCRIPT_VARIABLE) else { return Ok(DummyScript::default()) };
    serde_json::from_slice(json.as_encoded_bytes()).map_err(|error| {
        let message = format!("{SCRIPT_VARIABLE} is no script for the dummy: {error}");
        Failure::new(ErrorCode::Config, message)
            .hint(format!("Unset it, or set it to JSON such as {SCRIPT_EXAMPLE}."))
    })
}

const SCRIPT_EXAMPLE: &str = r#"{"step_ms":10,"words":100}"#;

struct Dummy {
    info: ModelInfo,
    script: DummyScript,
    sequences: BTreeMap<SeqId, Sequence>,
}

struct Sequence {
    answer: Vec<String>,
    cached: Vec<TokenId>,
    /// Words of the answer that are cached.
    words: usize,
}

/// Words of an answer among these tokens.
fn words_in(tokens: &[TokenId]) -> usize {
    tokens.iter().filter(|token| token.0 >= FIRST_WORD).count()
}

impl ModelBackend for Dummy {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What the user said last.
    fn render_chat(&self, messages: &[Message]) -> Result<String, BackendError> {
        let last = messages.iter().rev().find(|message| message.role == Role::User);
        Ok(last.map(|message| message.content.clone()).unwrap_or_default())
    }

    fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, BackendError> {
        Ok(text.bytes().map(|byte| TokenId(byte.into())).collect())
    }

    fn open(&mut self, seq: SeqId, _: &Parameters, prompt: &[TokenId]) -> Result<(), BackendError> {
        let bytes: Vec<u8> = prompt.iter().filter_map(|token| u8::try_from(token.0).ok()).collect();
        let answer = match self.script.words {
            Some(words) => answer::of_length(words),
            None => answer::to(&String::from_utf8_lossy(&bytes)),
        };
        self.sequences.insert(seq, Sequence { answer, cached: Vec::new(), words: 0 });
        Ok(())
    }

    fn forward(&mut self, plan: &Plan, sampled: &mut Vec<Sampled>) -> Result<(), BackendError> {
        let used: usize = self.sequences.values().map(|sequence| sequence.cached.len()).sum();
        if used + plan.n_tokens() > self.info.n_ctx as usize {
            return Err(BackendError::CacheFull);
        }
        let mut words = Vec::with_capacity(plan.feeds.len());
        for feed in &plan.feeds {
            let sequence = self.sequences.get(&feed.seq);
            let sequence = sequence.filter(|s| s.cached.len() == feed.start as usize);
            let sequence = sequence.ok_or_else(|| {
                BackendError::Broken(format!("{:?} is not at {}", feed.seq, feed.start))
            })?;
            let generated = sequence.words + words_in(&feed.tokens);
            if feed.sample {
                self.follow_script(generated)?;
            }
            words.push(generated);
        }
        thread::sleep(Duration::from_millis(self.script.step_ms));
        for (feed, generated) in plan.feeds.iter().zip(words) {
            let Some(sequence) = self.sequences.get_mut(&feed.seq) else { continue };
            sequence.cached.extend(&feed.tokens);
            sequence.words = generated;
            if feed.sample {
                sampled.push(sequence.sample(feed.seq, generated));
            }
        }
        Ok(())
    }

    fn trim(&mut self, seq: SeqId, keep: u32) -> Result<(), BackendError> {
        if let Some(sequence) = self.sequences.get_mut(&seq) {
            sequence.cached.truncate(keep as usize);
            sequence.words = words_in(&sequence.cached);
        }
        Ok(())
    }

    fn close(&mut self, seq: SeqId) {
        self.sequences.remove(&seq);
    }
}

impl Dummy {
    /// Fails or crashes when a sequence has so many words and the script wants it.
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
    fn sample(&self, seq: SeqId, generated: usize) -> Sampled {
        let token = TokenId(FIRST_WORD + i32::try_from(generated).unwrap_or(0));
        let piece = match self.answer.get(generated) {
            Some(word) if generated == 0 => word.clone(),
            Some(word) => format!(" {word}"),
            None => String::new(),
        };
        Sampled { seq, token, end: generated >= self.answer.len(), piece: piece.into_bytes() }
    }
}
