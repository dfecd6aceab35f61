//! The loop over llama-cpp-2, as short as it can be.

use std::error::Error;
use std::num::NonZeroU32;
use std::path::Path;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{LogOptions, send_logs_to_tracing};

use crate::options::Options;
use crate::{Loop, Measure};

struct Raw<'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    tokens: Vec<LlamaToken>,
    samplers: Vec<LlamaSampler>,
    next: Vec<LlamaToken>,
    position: i32,
    n_batch: usize,
}

pub(crate) fn with_loop(
    options: &Options,
    measure: &mut Measure<'_>,
) -> Result<(), Box<dyn Error>> {
    send_logs_to_tracing(LogOptions::default().with_logs_enabled(false));
    let backend = LlamaBackend::init()?;
    let path = Path::new(&options.model);
    let model = LlamaModel::load_from_file(&backend, path, &LlamaModelParams::default())?;
    let threads = i32::try_from(options.thread_count())?;
    let most = options.most_sequences();
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(options.context()))
        .with_n_batch(options.batch)
        .with_n_ubatch(options.batch)
        .with_n_seq_max(u32::try_from(most)?)
        .with_kv_unified(true)
        .with_n_threads(threads)
        .with_n_threads_batch(threads);
    let context = model.new_context(&backend, params)?;
    let text = options.text.repeat(1 + options.prompt * 8 / options.text.len());
    let tokens = model.vocab().tokenize(text.as_bytes(), true, false);
    let sampler = |_| match options.greedy {
        true => LlamaSampler::chain([LlamaSampler::greedy()], true),
        false => LlamaSampler::chain(
            [
                LlamaSampler::top_k(40),
                LlamaSampler::top_p(0.95, 1),
                LlamaSampler::min_p(0.05, 1),
                LlamaSampler::temp(0.8),
                LlamaSampler::dist(1),
            ],
            true,
        ),
    };
    measure(&mut Raw {
        context,
        batch: LlamaBatch::new(options.batch as usize, 1),
        tokens,
        samplers: (0..most).map(sampler).collect(),
        next: Vec::new(),
        position: 0,
        n_batch: options.batch as usize,
    })
}

impl Raw<'_> {
    fn sample(&mut self, row: i32, sequence: usize) -> LlamaToken {
        self.samplers[sequence].sample(&self.context, row)
    }
}

impl Loop for Raw<'_> {
    fn read(&mut self, sequences: usize, tokens: usize) -> Result<(), Box<dyn Error>> {
        self.context.clear_kv_cache();
        self.next.clear();
        self.position = i32::try_from(tokens)?;
        for sequence in 0..sequences {
            let prompt = self.tokens.get(..tokens).ok_or("the text is too short")?.to_vec();
            let mut row = 0;
            let mut start = 0;
            for chunk in prompt.chunks(self.n_batch) {
                self.batch.clear();
                for (position, token) in (start..).zip(chunk) {
                    let last = position + 1 == self.position;
                    self.batch.add(*token, position, &[i32::try_from(sequence)?], last)?;
                }
                start += i32::try_from(chunk.len())?;
                row = self.batch.n_tokens() - 1;
                self.context.decode(&mut self.batch)?;
            }
            let token = self.sample(row, sequence);
            self.next.push(token);
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Box<dyn Error>> {
        self.batch.clear();
        for (sequence, token) in (0..).zip(&self.next) {
            self.batch.add(*token, self.position, &[sequence], true)?;
        }
        self.position += 1;
        self.context.decode(&mut self.batch)?;
        for sequence in 0..self.next.len() {
            self.next[sequence] = self.sample(i32::try_from(sequence)?, sequence);
        }
        Ok(())
    }
}
