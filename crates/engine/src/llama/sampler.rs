//! A sequence's sampler: llama.cpp's samplers, chained in the order of llama.cpp's own tools.

use std::hash::{BuildHasher, RandomState};

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use threadrunner_core::Parameters;

/// How many recent tokens the repeat penalty considers: llama.cpp's default.
const PENALTY_LAST_N: i32 = 64;

/// Chooses the next token of one sequence.
#[derive(Debug)]
pub(super) struct Sampler {
    chain: Option<LlamaSampler>,
}

impl Sampler {
    /// Creates a sampler. Missing parameters get their defaults; the repeat penalty looks back at
    /// `prompt`.
    pub(super) fn new(params: &Parameters, n_vocab: i32, prompt: &[LlamaToken]) -> Self {
        let params = params.clone().or(&Parameters::DEFAULT);
        let mut chain = Vec::new();
        let penalty = params.repeat_penalty.unwrap_or(1.0);
        if penalty != 1.0 {
            chain.push(LlamaSampler::penalties(n_vocab, PENALTY_LAST_N, penalty, 0.0, 0.0));
        }
        let temperature = params.temperature.unwrap_or(0.0);
        if temperature > 0.0 {
            // Top-k goes first: top-p must sort what is left, which takes 3 ms for a whole
            // vocabulary and 45 us after top-k. Filters that let everything pass are left out.
            if let Some(k) = params.top_k.filter(|k| *k > 0) {
                chain.push(LlamaSampler::top_k(i32::try_from(k).unwrap_or(i32::MAX)));
            }
            if let Some(p) = params.top_p.filter(|p| *p < 1.0) {
                chain.push(LlamaSampler::top_p(p, 1));
            }
            if let Some(p) = params.min_p.filter(|p| *p > 0.0) {
                chain.push(LlamaSampler::min_p(p, 1));
            }
            chain.push(LlamaSampler::temp(temperature));
            chain.push(LlamaSampler::dist(seed(params.seed)));
        } else if !chain.is_empty() {
            chain.push(LlamaSampler::greedy());
        }
        let chain = (!chain.is_empty()).then(|| {
            let recent = prompt.len().saturating_sub(PENALTY_LAST_N as usize);
            LlamaSampler::chain(chain, true).with_tokens(&prompt[recent..])
        });
        Self { chain }
    }

    /// Chooses a token and records it. The logits must be [`usable`]; `candidates` is scratch
    /// memory.
    pub(super) fn sample(
        &mut self,
        logits: &[f32],
        candidates: &mut LlamaTokenDataArray,
    ) -> Option<LlamaToken> {
        let Some(chain) = &mut self.chain else {
            return most_likely(logits);
        };
        candidates.data.clear();
        candidates.data.extend(
            (0_i32..)
                .zip(logits)
                .map(|(id, logit)| LlamaTokenData::new(LlamaToken(id), *logit, 0.0)),
        );
        candidates.selected = None;
        candidates.sorted = false;
        chain.apply(candidates);
        let token = candidates.selected_token()?;
        chain.accept(token);
        Some(token)
    }
}

/// Whether there is a most likely token: no logit is NaN or plus infinity, and at least one is
/// above minus infinity. Both folds are branchless, so that they compile to vector instructions.
pub(super) fn usable(logits: &[f32]) -> bool {
    let bad =
        logits.iter().fold(false, |bad, logit| bad | logit.is_nan() | (*logit == f32::INFINITY));
    let any = logits.iter().fold(false, |any, logit| any | (*logit > f32::NEG_INFINITY));
    any && !bad
}

/// The first of the most likely tokens, like llama.cpp's greedy sampler.
fn most_likely(logits: &[f32]) -> Option<LlamaToken> {
    // Sixteen maxima side by side: the compiler may not reorder the operations of a single one.
    let (chunks, rest) = logits.as_chunks::<16>();
    let mut best = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (best, logit) in best.iter_mut().zip(chunk) {
            *best = if *logit > *best { *logit } else { *best };
        }
    }
    let best = best.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let id = logits.iter().position(|logit| *logit == best)?;
    i32::try_from(id).ok().map(LlamaToken)
}

/// The seed to use. llama.cpp reads the largest seed as "choose one at random", so it becomes the
/// one below.
fn seed(asked: Option<u32>) -> u32 {
    asked.map_or_else(random_seed, |seed| seed.min(u32::MAX - 1))
}

/// A random seed. The standard library's hasher keys come from the operating system's randomness
/// and differ from call to call.
fn random_seed() -> u32 {
    RandomState::new().hash_one(0_u8) as u32
}
