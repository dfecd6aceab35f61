//! The floor: the loop that anybody would write over llama.cpp, in one process.
//!
//! It uses the same context as the engine (8192 cells shared by 8 sequences, batches of 512),
//! llama.cpp's greedy sampler, and llama.cpp's default way of waiting for other threads.

use std::path::Path;
use std::time::Instant;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;

use crate::Measured;

const CONTEXT: u32 = 8192;
const BATCH: u32 = 512;
const SEQUENCES: u32 = 8;

/// A loaded model and its context.
pub(crate) struct Floor<'model> {
    model: &'model LlamaModel,
    context: std::cell::RefCell<LlamaContext<'model>>,
}

struct Sequence {
    next: LlamaToken,
    position: i32,
    left: u32,
}

/// Loads the model and passes the loop to `body`.
pub(crate) fn with_loop(path: &Path, body: impl FnOnce(&Floor<'_>)) {
    let mut backend = LlamaBackend::init().expect("llama.cpp starts");
    backend.void_logs();
    let model = LlamaModel::load_from_file(&backend, path, &LlamaModelParams::default())
        .expect("the model loads");
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = i32::try_from(threads).unwrap_or(1);
    let params = LlamaContextParams::default()
        .with_n_ctx(CONTEXT.try_into().ok())
        .with_n_batch(BATCH)
        .with_n_ubatch(BATCH)
        .with_n_seq_max(SEQUENCES)
        .with_kv_unified(true)
        .with_n_threads(threads)
        .with_n_threads_batch(threads);
    let context = model.new_context(&backend, params).expect("the context is made");
    body(&Floor { model: &model, context: context.into() });
}

impl Floor<'_> {
    /// Answers the prompts at once, greedily, with `answer` tokens each.
    pub(crate) fn measure(&self, prompts: &[String], answer: u32) -> Measured {
        let mut context = self.context.borrow_mut();
        context.clear_kv_cache();
        let sent = Instant::now();
        let mut sampler = LlamaSampler::greedy();
        let mut batch = LlamaBatch::new(BATCH as usize, 1);
        let mut prompt_tokens = 0;
        let mut begun = None;
        let mut running: Vec<(i32, Sequence)> = Vec::new();
        for (seq, prompt) in (0..).zip(prompts) {
            let tokens = self.tokens(prompt);
            prompt_tokens += tokens.len();
            let last = tokens.len() - 1;
            for (chunk, piece) in tokens.chunks(BATCH as usize).enumerate() {
                batch.clear();
                for (index, token) in piece.iter().enumerate() {
                    let position = chunk * BATCH as usize + index;
                    let at = i32::try_from(position).expect("a short prompt");
                    batch.add(*token, at, &[seq], position == last).expect("room in the batch");
                }
                context.decode(&mut batch).expect("a forward pass");
            }
            let next = sampler.sample(&context, batch.n_tokens() - 1);
            begun.get_or_insert_with(Instant::now);
            let position = i32::try_from(tokens.len()).expect("a short prompt");
            running.push((seq, Sequence { next, position, left: answer - 1 }));
        }
        let first = Instant::now();
        let mut generated = 0_u32;
        let vocab = self.model.vocab();
        loop {
            running.retain(|(_, s)| s.left > 0 && !vocab.is_eog(s.next));
            if running.is_empty() {
                break;
            }
            batch.clear();
            for (seq, sequence) in &running {
                batch
                    .add(sequence.next, sequence.position, &[*seq], true)
                    .expect("room in the batch");
            }
            context.decode(&mut batch).expect("a forward pass");
            for (row, (_, sequence)) in (0..).zip(&mut running) {
                sequence.next = sampler.sample(&context, row);
                sequence.position += 1;
                sequence.left -= 1;
                generated += 1;
            }
        }
        let since = begun.unwrap_or(first);
        Measured {
            prompt_tokens: prompt_tokens as u64,
            inside_ms: (first - sent).as_secs_f64() * 1e3,
            first_token_ms: (first - sent).as_secs_f64() * 1e3,
            tokens_per_s: f64::from(generated) / since.elapsed().as_secs_f64(),
        }
    }

    fn tokens(&self, prompt: &str) -> Vec<LlamaToken> {
        let vocab = self.model.vocab();
        let mut tokens = vocab.tokenize(prompt.as_bytes(), false, true);
        if vocab.should_add_bos() {
            tokens.insert(0, vocab.bos());
        }
        tokens
    }
}
