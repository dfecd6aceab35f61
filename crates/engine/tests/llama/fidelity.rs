//! Answers are llama.cpp's own and, if asked for, the same whatever else runs.

use std::collections::BTreeMap;
use std::path::Path;

use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use threadrunner_core::engine_protocol::EngineRequestId;
use threadrunner_core::scheduler::{Change, Output, Request, Scheduler};
use threadrunner_core::{ModelBackend, Parameters, Priority, SeqId, TokenId};

use super::{EngineOptions, gemma, greedy, smollm, try_with, user};

/// One prompt per line.
const PROMPTS: &str = include_str!("prompts.txt");

/// Tokenizes the prompts, as conversations if the model has a chat template.
fn tokenized(backend: &dyn ModelBackend, prompts: &[&str]) -> Vec<Vec<TokenId>> {
    let text = |prompt: &&str| match backend.info().chat_template {
        true => backend.render_chat(&user(prompt), &[]).unwrap(),
        false => (*prompt).to_owned(),
    };
    prompts.iter().map(|prompt| backend.tokenize(&text(prompt)).unwrap()).collect()
}

/// The plain loop over llama.cpp: one sequence, and an empty cache for each prompt, which is read
/// in batches and then answered token by token.
fn plainly(
    path: &Path,
    prompts: &[Vec<TokenId>],
    batch: u32,
    threads: u32,
    answer: usize,
) -> Vec<Vec<TokenId>> {
    let _one = super::ONE_AT_A_TIME.lock().unwrap();
    let mut backend = LlamaBackend::init().unwrap();
    backend.void_logs();
    let model = LlamaModel::load_from_file(&backend, path, &LlamaModelParams::default()).unwrap();
    let params = LlamaContextParams::default()
        .with_n_ctx(std::num::NonZero::new(2048))
        .with_n_batch(batch)
        .with_n_ubatch(batch)
        .with_n_threads(threads as i32)
        .with_n_threads_batch(threads as i32);
    let mut context = model.new_context(&backend, params).unwrap();
    let mut sampler = LlamaSampler::greedy();
    let mut tokens_of = |prompt: &Vec<TokenId>| {
        context.clear_kv_cache();
        let mut llama_batch = LlamaBatch::new(batch as usize, 1);
        let mut position = 0;
        for piece in prompt.chunks(batch as usize) {
            llama_batch.clear();
            for (place, token) in piece.iter().enumerate() {
                let last = place + 1 == piece.len();
                llama_batch.add(LlamaToken(token.0), position, &[0], last).unwrap();
                position += 1;
            }
            context.decode(&mut llama_batch).unwrap();
        }
        let mut tokens = Vec::new();
        loop {
            let token = sampler.sample(&context, llama_batch.n_tokens() - 1);
            if model.vocab().is_eog(token) {
                return tokens;
            }
            tokens.push(TokenId(token.0));
            if tokens.len() == answer {
                return tokens;
            }
            llama_batch.clear();
            llama_batch.add(token, position, &[0], true).unwrap();
            position += 1;
            context.decode(&mut llama_batch).unwrap();
        }
    };
    prompts.iter().map(&mut tokens_of).collect()
}

/// A request and the step at which it arrives.
struct Arrival {
    prompt: Vec<TokenId>,
    params: Parameters,
    priority: Priority,
    step: usize,
}

impl Arrival {
    fn greedy(prompt: &[TokenId], answer: usize) -> Self {
        let params = Parameters { max_tokens: Some(answer as u32), ..greedy() };
        Self { prompt: prompt.to_vec(), params, priority: Priority::Normal, step: 0 }
    }
}

/// Returns the tokens of all answers, in the order of `arrivals`.
fn through_the_scheduler(
    backend: &mut dyn ModelBackend,
    arrivals: &[Arrival],
) -> Vec<Vec<TokenId>> {
    let mut scheduler = Scheduler::new(backend.info());
    let mut outputs = Vec::new();
    // Prompts differ, so its prompt tells which request a sequence belongs to.
    let mut owners: BTreeMap<SeqId, usize> = BTreeMap::new();
    let mut answers = vec![Vec::new(); arrivals.len()];
    let mut steps = 0;
    let last = arrivals.iter().map(|arrival| arrival.step).max().unwrap_or(0);
    while steps <= last || !scheduler.is_idle() {
        for (id, arrival) in (0..).zip(arrivals).filter(|(_, arrival)| arrival.step == steps) {
            let (prompt, params) = (arrival.prompt.clone(), arrival.params.clone());
            let request = Request {
                id: EngineRequestId(id),
                prompt,
                params,
                priority: arrival.priority,
                session: None,
            };
            scheduler.submit(request).unwrap();
        }
        steps += 1;
        let mut step = scheduler.plan();
        for change in &step.changes {
            if let Change::Open { seq, prompt, .. } = change {
                let owner = arrivals.iter().position(|arrival| arrival.prompt == *prompt);
                owners.insert(*seq, owner.unwrap());
            }
        }
        let outcome = step.carry_out(backend);
        for sampled in outcome.forward.iter().flatten().filter(|sampled| !sampled.end) {
            answers[owners[&sampled.seq]].push(sampled.token);
        }
        scheduler.apply(step, outcome, &mut outputs);
    }
    let failed = outputs.iter().any(|output| matches!(output, Output::Failed { .. }));
    assert!(!failed, "{outputs:?}");
    answers
}

/// Uses one thread: with more, rounding depends on how many there are, which the other test covers.
fn a_hundred_answers_are_llama_cpps_own(path: &Path, answer: usize) {
    let list: Vec<&str> = PROMPTS.lines().collect();
    assert_eq!(list.len(), 100);
    let (mut prompts, mut ours) = (Vec::new(), Vec::new());
    // If prompts shared their beginnings, these would be read once, in pieces of another length.
    let options = EngineOptions { prefix_cache: Some(false), ..EngineOptions::default() };
    try_with(path.to_owned(), options, |backend, _| {
        prompts = tokenized(backend, &list);
        for prompt in &prompts {
            ours.extend(through_the_scheduler(backend, &[Arrival::greedy(prompt, answer)]));
        }
    })
    .unwrap();
    let theirs = plainly(path, &prompts, 512, 1, answer);
    for ((prompt, ours), theirs) in list.iter().zip(ours).zip(theirs) {
        assert_eq!(ours, theirs, "{prompt}");
    }
}

#[test]
fn a_hundred_greedy_answers_are_llama_cpps_own_token_by_token() {
    a_hundred_answers_are_llama_cpps_own(&smollm(), 24);
}

#[test]
fn a_hundred_greedy_answers_of_a_base_model_are_llama_cpps_own_token_by_token() {
    a_hundred_answers_are_llama_cpps_own(&gemma(), 20);
}

/// Runs eight requests, together and staggered, in two orders, with interactive ones among them that
/// pause the others. Each is answered as if it were alone, and the greedy ones as llama.cpp answers.
/// Some have more than 256 tokens, beyond which llama.cpp splits the attention of a single token
/// into as many parts as there are threads.
#[test]
fn deterministic_answers_are_the_same_whatever_else_runs() {
    const ANSWER: usize = 10;
    for path in [smollm(), gemma()] {
        let options = EngineOptions {
            deterministic: Some(true),
            threads: Some(2),
            batch: Some(128),
            ..EngineOptions::default()
        };
        let (mut prompts, mut alone) = (Vec::new(), Vec::new());
        try_with(path.clone(), options, |backend, _| {
            let long = "The tide comes in and the boats come home. ".repeat(28);
            let long: Vec<String> =
                (0..3).map(|n| format!("{long} Boat {n} came home last, because")).collect();
            let list: Vec<&str> =
                long.iter().map(String::as_str).chain(PROMPTS.lines().take(5)).collect();
            prompts = tokenized(backend, &list);
            assert!(prompts[0].len() > 256);
            let arrivals = |order: &[usize], apart: usize| -> Vec<Arrival> {
                let arrival = |(place, n): (usize, &usize)| {
                    let arrival = Arrival::greedy(&prompts[*n], ANSWER);
                    let seed = (n % 3 == 1).then_some(7);
                    let temperature = if seed.is_some() { Some(1.0) } else { Some(0.0) };
                    let priorities = [Priority::Batch, Priority::Interactive, Priority::Normal];
                    let params = Parameters { seed, temperature, ..arrival.params };
                    let priority = priorities[n % 3];
                    Arrival { params, priority, step: place * apart, ..arrival }
                };
                order.iter().enumerate().map(arrival).collect()
            };
            for n in 0..prompts.len() {
                alone.extend(through_the_scheduler(backend, &arrivals(&[n], 0)));
            }
            for (order, apart) in [([0, 1, 2, 3, 4, 5, 6, 7], 0), ([6, 2, 0, 3, 7, 5, 1, 4], 9)] {
                let together = through_the_scheduler(backend, &arrivals(&order, apart));
                for (n, answer) in order.iter().zip(together) {
                    assert_eq!(answer, alone[*n], "{}", list[*n]);
                }
            }
        })
        .unwrap();
        let theirs = plainly(&path, &prompts, 128, 2, ANSWER);
        for n in (0..prompts.len()).filter(|n| n % 3 != 1) {
            assert_eq!(alone[n], theirs[n]);
        }
    }
}
