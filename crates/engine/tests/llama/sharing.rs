//! Sequences that share cells.

use threadrunner_core::engine_protocol::{EngineOptions, EngineRequestId};
use threadrunner_core::scheduler::{Output, Request, Scheduler};
use threadrunner_core::{
    BackendError, Feed, ModelBackend, Parameters, Plan, PrefixCache, Priority, SeqId, Usage,
};

use super::{gemma, greedy, smollm, try_with, with};

/// The outcome of requests that were submitted together.
struct Together {
    texts: Vec<String>,
    /// The number of prompt tokens that were computed, over all requests.
    read: u32,
}

/// Answers these prompts together, through the scheduler.
fn together(backend: &mut dyn ModelBackend, prompts: &[String], max_tokens: u32) -> Together {
    let mut scheduler = Scheduler::new(backend.info());
    for (id, prompt) in (0..).zip(prompts) {
        let prompt = backend.tokenize(prompt).unwrap();
        let params = Parameters { max_tokens: Some(max_tokens), ..greedy() };
        let request = Request {
            id: EngineRequestId(id),
            prompt,
            params,
            priority: Priority::Normal,
            session: None,
        };
        scheduler.submit(request).unwrap();
    }
    let mut outputs = Vec::new();
    while !scheduler.is_idle() {
        let mut step = scheduler.plan();
        let outcome = step.carry_out(backend);
        scheduler.apply(step, outcome, &mut outputs);
    }
    // The sequences that were kept belong to this scheduler.
    for seq in 0..backend.info().n_seq_max + backend.info().n_seq_spare {
        backend.close(SeqId(seq));
    }
    let (mut texts, mut read) = (vec![String::new(); prompts.len()], 0);
    for output in outputs {
        match output {
            Output::Text { id, text } => texts[id.0 as usize].push_str(&text),
            Output::Finished { usage, .. } => read += usage.prompt_tokens - usage.cached_tokens,
            Output::Failed { failure, .. } => panic!("{failure}"),
            Output::Prefill { .. } | Output::Started { .. } => {}
        }
    }
    Together { texts, read }
}

/// Returns eight prompts with a long common beginning, and the number of tokens in that beginning
/// and all tails.
fn with_one_prefix(backend: &dyn ModelBackend, words: usize) -> (Vec<String>, u32) {
    let all = ["river", "stone", "letter", "morning", "window", "garden", "paper", "road"];
    let prefix: Vec<&str> = (0..words).map(|n| all[(n * 5 + n / 7) % 8]).collect();
    let prefix = format!("A list of words: {}. ", prefix.join(" "));
    let prompts: Vec<String> =
        all.iter().map(|word| format!("{prefix}\nThe capital of the {word} is")).collect();
    let tokens: Vec<_> = prompts.iter().map(|prompt| backend.tokenize(prompt).unwrap()).collect();
    let same = (0..).take_while(|&n| tokens.iter().all(|t| t[n] == tokens[0][n])).count();
    let tails: usize = tokens.iter().map(|tokens| tokens.len() - same).sum();
    (prompts, (same + tails) as u32)
}

#[test]
fn eight_requests_with_one_prefix_read_it_once() {
    // Gemma's window is 512 tokens, so it has lost the start of the longer prefix.
    for (path, words) in [(smollm(), 100), (smollm(), 700), (gemma(), 100), (gemma(), 700)] {
        with(path, |backend, _| {
            let (prompts, least) = with_one_prefix(backend, words);
            let together = together(backend, &prompts, 16);
            assert_eq!(together.read, least, "{words} words");
            assert!(together.texts.iter().all(|text| !text.is_empty()));
        });
    }
}

/// llama.cpp rounds differently in batches of another size, and sharing changes the sizes. With one
/// token at a time, nothing is rounded differently: what was shared is what would have been
/// computed.
#[test]
fn answers_are_the_same_as_without_sharing_where_batches_are() {
    for path in [smollm(), gemma()] {
        let mut answers = Vec::new();
        for prefix_cache in [Some(false), None] {
            let options = EngineOptions {
                prefix_cache,
                batch: Some(1),
                sequences: Some(1),
                ..EngineOptions::default()
            };
            try_with(path.clone(), options, |backend, _| {
                let (mut prompts, _) = with_one_prefix(backend, 40);
                prompts.truncate(4);
                let together = together(backend, &prompts, 12);
                answers.push((together.texts, together.read));
            })
            .unwrap();
        }
        let [(apart, all), (shared, least)] = answers.as_slice() else { panic!("two runs") };
        assert_eq!(apart, shared);
        assert!(least * 2 < *all, "{least} of {all} tokens were read");
    }
}

#[test]
fn a_prompt_that_goes_on_from_an_ended_one_begins_with_its_cells() {
    with(smollm(), |backend, _| {
        let (prompts, _) = with_one_prefix(backend, 100);
        let mut scheduler = Scheduler::new(backend.info());
        let mut ask = |backend: &mut dyn ModelBackend, prompt: &str| -> Usage {
            let prompt = backend.tokenize(prompt).unwrap();
            let params = Parameters { max_tokens: Some(8), ..greedy() };
            scheduler
                .submit(Request {
                    id: EngineRequestId(1),
                    prompt,
                    params,
                    priority: Priority::Normal,
                    session: None,
                })
                .unwrap();
            let mut outputs = Vec::new();
            while !scheduler.is_idle() {
                let mut step = scheduler.plan();
                let outcome = step.carry_out(backend);
                scheduler.apply(step, outcome, &mut outputs);
            }
            let Some(Output::Finished { usage, .. }) = outputs.last() else { panic!() };
            *usage
        };
        let first = ask(backend, &prompts[0]);
        assert_eq!(first.cached_tokens, 0);
        let second = ask(backend, &prompts[1]);
        assert!(second.cached_tokens > 100 && second.cached_tokens < second.prompt_tokens);
        let again = ask(backend, &prompts[1]);
        assert_eq!(again.cached_tokens, again.prompt_tokens - 1);
    });
}

#[test]
fn a_sequence_longer_than_its_window_is_shared_as_a_whole() {
    let options = EngineOptions {
        context: Some(2048),
        sequences: Some(1),
        batch: Some(64),
        ..EngineOptions::default()
    };
    try_with(gemma(), options, |backend, _| {
        assert_eq!(backend.info().prefix_cache, PrefixCache::Window(512));
        let tokens = backend.tokenize(&"river stone letter ".repeat(1000)).unwrap();
        let (tokens, last) = (&tokens[..1216], tokens[1216]);
        let (from, to) = (SeqId(0), SeqId(100));
        let mut sampled = Vec::new();
        backend.open(from, &greedy(), tokens).unwrap();
        backend.open(to, &greedy(), tokens).unwrap();
        for (n, chunk) in (0..).zip(tokens.chunks(64)) {
            let feed =
                Feed { seq: from, start: n * 64, tokens: chunk.to_vec(), sample: false, drafts: 0 };
            backend.forward(&Plan { feeds: vec![feed] }, &mut sampled).unwrap();
        }
        backend.copy(from, to, 1216).unwrap();
        // One after the other, so that both are computed the same way.
        for seq in [to, from] {
            let feed = Feed { seq, start: 1216, tokens: vec![last], sample: true, drafts: 0 };
            backend.forward(&Plan { feeds: vec![feed] }, &mut sampled).unwrap();
        }
        let [shared, own] = sampled.as_slice() else { panic!("{sampled:?}") };
        assert_eq!(shared.token, own.token);
    })
    .unwrap();
}

#[test]
fn copies_that_cannot_be_are_refused_and_leave_nothing() {
    with(smollm(), |backend, _| {
        let (from, to) = (SeqId(0), SeqId(200));
        let tokens = backend.tokenize("One, two, three, four, five").unwrap();
        backend.open(from, &greedy(), &tokens).unwrap();
        backend.open(to, &greedy(), &tokens).unwrap();
        let feed = Feed { seq: from, start: 0, tokens: tokens.clone(), sample: false, drafts: 0 };
        backend.forward(&Plan { feeds: vec![feed] }, &mut Vec::new()).unwrap();
        let length = tokens.len() as u32;
        backend.copy(from, to, length - 1).unwrap();
        for (donor, n) in [(from, length + 1), (SeqId(100), 1), (from, 0), (SeqId(1000), 1)] {
            assert!(matches!(backend.copy(donor, to, n), Err(BackendError::Request(_))));
            let feed = Feed { seq: to, start: 0, tokens: tokens.clone(), sample: true, drafts: 0 };
            let mut sampled = Vec::new();
            backend.forward(&Plan { feeds: vec![feed] }, &mut sampled).unwrap();
            assert_eq!(sampled.len(), 1);
        }
    });
}
