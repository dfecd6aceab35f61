//! Runs real forward passes through every kind of kernel and compares results that must agree.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use serde_json::{Value, json};
use threadrunner_core::engine_protocol::EngineOptions;
use threadrunner_core::{ErrorCode, Failure};

use super::context::{Batch, Context, ContextSettings};
use super::{cpu, log, sampler, weights};
use crate::{gguf, machine};

/// Long enough for the matrix multiplication kernels, which start at 32 rows or more.
const PROMPT: usize = 96;
/// The number of sequences that decode together.
const TOGETHER: usize = 8;
/// Kernels of different shapes round differently: results are 2 % apart with the test's own model,
/// and up to 16 % with a real one. A wrong kernel is off by about 100 %.
const TOLERANCE: f32 = 0.1;
const TOLERANCE_OF_OTHERS: f32 = 0.5;
const SEED: u64 = 42;
/// The first logits after the prompt, as the portable build computes them for the model of
/// [`SEED`]. Catches a build that is wrong in the same way for every shape.
const REFERENCE: [f32; 8] = [-0.0403, -0.0899, -1.2577, 1.3355, 0.2698, -0.8768, -0.6325, 0.5207];

/// Tests this build, with `model` or with a tiny one of its own. The report has `ok`,
/// `system_info`, `cpu`, and the speeds measured.
///
/// # Errors
/// The model does not load, or the build computes wrong results.
pub fn self_test(model: Option<&Path>) -> Result<Value, Failure> {
    log::install();
    let own = match model {
        Some(_) => None,
        None => Some(TemporaryModel::new()?),
    };
    let path = own.as_ref().map_or(model, |own| Some(&own.0)).unwrap_or(Path::new(""));
    gguf::check_file(path)?;
    let backend = LlamaBackend::init()
        .map_err(|error| Failure::new(ErrorCode::Internal, format!("llama.cpp: {error}")))?;
    let model = weights::load_weights(&backend, path, &EngineOptions::default(), &mut |_| ())?;
    let threads = machine::facts().processor.threads;
    let tolerance = if own.is_some() { TOLERANCE } else { TOLERANCE_OF_OTHERS };
    let mut test = Test::new(&model, threads, tolerance)?;
    let whole = test.prompt_at_once()?;
    let stepwise = test.prompt_token_by_token()?;
    // Up to here with llama.cpp's attention, from here on with ours.
    test.context.set_own_attention(true);
    compare("llama.cpp's attention", &whole.logits, &test.prompt_at_once()?.logits, tolerance)?;
    let beside = test.beside_others(&whole.logits)?;
    if own.is_some() {
        compare("the reference", &REFERENCE, &whole.logits[..REFERENCE.len()], tolerance)?;
    }
    Ok(json!({
        "ok": true,
        "system_info": weights::system_info(),
        "cpu": { "detected": cpu::detected(), "used": cpu::used() },
        "threads": threads,
        "prompt_tokens_per_s": whole.per_second.round(),
        "decode_tokens_per_s": stepwise.per_second.round(),
        "decode_tokens_per_s_of_8": beside.round(),
    }))
}

/// The logits after a prompt, and the speed of reading it.
struct Read {
    logits: Vec<f32>,
    per_second: f64,
}

struct Test<'model> {
    context: Context<'model>,
    batch: Batch,
    tokens: Vec<i32>,
    tolerance: f32,
}

impl<'model> Test<'model> {
    fn new(model: &'model LlamaModel, threads: u32, tolerance: f32) -> Result<Self, Failure> {
        let settings = ContextSettings {
            n_ctx: 2048,
            n_batch: 512,
            n_ubatch: 512,
            n_seq_max: TOGETHER as u32,
            sequences: TOGETHER as u32,
            states: TOGETHER as u32,
            drafts: 0,
            threads,
        };
        let mut context =
            Context::new(model, settings).ok_or_else(|| wrong("cannot make a context"))?;
        context.set_own_attention(false);
        let n_vocab = model.n_vocab().max(1);
        let tokens = (0..PROMPT as i32).map(|n| (n * 37 + 11) % n_vocab).collect();
        Ok(Self { context, batch: Batch::default(), tokens, tolerance })
    }

    fn decode(&mut self) -> Result<(), Failure> {
        self.context.decode(&mut self.batch).map_err(|error| wrong(&error.to_string()))
    }

    fn logits(&self, row: usize) -> Result<Vec<f32>, Failure> {
        let logits = self.context.logits(row).ok_or_else(|| wrong("logits are missing"))?;
        if !sampler::usable(logits) {
            return Err(wrong("the logits are not numbers"));
        }
        Ok(logits.to_vec())
    }

    /// Reads the prompt in one pass: matrix times matrix.
    fn prompt_at_once(&mut self) -> Result<Read, Failure> {
        let mut read = || -> Result<Read, Failure> {
            self.context.forget(0, 0);
            self.batch.clear();
            for (position, token) in (0..).zip(&self.tokens) {
                self.batch.push(*token, position, 0);
            }
            self.batch.want_output();
            let start = Instant::now();
            self.decode()?;
            let per_second = self.tokens.len() as f64 / start.elapsed().as_secs_f64();
            Ok(Read { logits: self.logits(self.tokens.len() - 1)?, per_second })
        };
        // The first pass touches the weights for the first time, so its speed says nothing.
        let first = read()?;
        let second = read()?;
        compare("the first pass", &first.logits, &second.logits, self.tolerance)?;
        Ok(second)
    }

    /// Reads the prompt token by token, matrix times vector, and checks that the logits agree with
    /// one pass.
    fn prompt_token_by_token(&mut self) -> Result<Read, Failure> {
        let whole = self.prompt_at_once()?.logits;
        self.context.forget(0, 0);
        let start = Instant::now();
        for (position, token) in (0..).zip(self.tokens.clone()) {
            self.batch.clear();
            self.batch.push(token, position, 0);
            self.batch.want_output();
            self.decode()?;
        }
        let per_second = self.tokens.len() as f64 / start.elapsed().as_secs_f64();
        let logits = self.logits(0)?;
        compare("the prompt in one pass", &whole, &logits, self.tolerance)?;
        Ok(Read { logits, per_second })
    }

    /// Decodes several sequences in one batch and checks that each agrees with a sequence alone.
    /// Returns the speed in tokens per second.
    fn beside_others(&mut self, alone: &[f32]) -> Result<f64, Failure> {
        for sequence in 0..TOGETHER as i32 {
            self.context.forget(sequence, 0);
        }
        let start = Instant::now();
        for (position, token) in (0..).zip(self.tokens.clone()) {
            self.batch.clear();
            for sequence in 0..TOGETHER as i32 {
                self.batch.push(token, position, sequence);
                self.batch.want_output();
            }
            self.decode()?;
        }
        let per_second = (self.tokens.len() * TOGETHER) as f64 / start.elapsed().as_secs_f64();
        for row in 0..TOGETHER {
            compare("one sequence alone", alone, &self.logits(row)?, self.tolerance)?;
        }
        Ok(per_second)
    }
}

/// The distance between two rows of logits, relative to the spread of the expected ones.
fn distance(expected: &[f32], found: &[f32]) -> f32 {
    let count = expected.len() as f32;
    let mean = expected.iter().sum::<f32>() / count;
    let spread = expected.iter().map(|logit| (logit - mean).powi(2)).sum::<f32>();
    let apart: f32 = expected.iter().zip(found).map(|(a, b)| (a - b).powi(2)).sum();
    (apart / spread).sqrt()
}

fn compare(what: &str, expected: &[f32], found: &[f32], tolerance: f32) -> Result<(), Failure> {
    let distance = distance(expected, found);
    // Written so that a NaN distance fails too.
    if expected.len() == found.len() && distance <= tolerance {
        return Ok(());
    }
    Err(wrong(&format!("the result differs from {what} by {:.0} %", distance * 100.0)))
}

fn wrong(message: &str) -> Failure {
    Failure::new(ErrorCode::Inference, message)
        .hint("try the portable build: in a source checkout, run `scripts/build-engine --portable`")
}

/// The tiny model in a file, which is removed on drop.
struct TemporaryModel(PathBuf);

impl TemporaryModel {
    fn new() -> Result<Self, Failure> {
        let name = format!("threadrunner-self-test-{}.gguf", std::process::id());
        let path = std::env::temp_dir().join(name);
        let io = |error| {
            let message = format!("cannot write {}: {error}", path.display());
            Failure::new(ErrorCode::Io, message).hint("set TMPDIR to a writable directory")
        };
        // `create_new` does not follow a link that someone else put there.
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(io)?;
        let own = Self(path.clone());
        file.write_all(&gguf::tiny_model(SEED).to_bytes()).map_err(io)?;
        Ok(own)
    }
}

impl Drop for TemporaryModel {
    fn drop(&mut self) {
        // Leaving it behind is harmless: it is in the system's temporary directory.
        let _ = fs::remove_file(&self.0);
    }
}
