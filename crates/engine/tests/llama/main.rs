//! The llama.cpp backend, driven through `ModelBackend` on real models.
#![cfg(feature = "llama")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod draft_model;
mod drafts;
mod fidelity;
mod memory;
mod sharing;
mod state;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use threadrunner_core::engine_protocol::{EngineInfo, EngineOptions, Load};
use threadrunner_core::{
    BackendError, BackendKind, ErrorCode, Failure, Feed, Message, ModelBackend, ModelRef,
    Parameters, Plan, Role, Sampled, SeqId, TokenId,
};
use threadrunner_engine::llama::with_model;

/// llama.cpp is initialized once per process, and models running at once slow each other down.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn model(name: &str) -> PathBuf {
    let Some(directory) = std::env::var_os("THREADRUNNER_TEST_MODELS") else {
        panic!("THREADRUNNER_TEST_MODELS is not set: run scripts/test, it fetches the models");
    };
    PathBuf::from(directory).join(name)
}

fn smollm() -> PathBuf {
    model("SmolLM2-135M-Instruct.Q4_1.gguf")
}

fn gemma() -> PathBuf {
    model("gemma-3-270m-q4_k_m.gguf")
}

fn try_with(
    path: PathBuf,
    options: EngineOptions,
    mut test: impl FnMut(&mut dyn ModelBackend, EngineInfo),
) -> Result<(), Failure> {
    // A single thread waits for no other, however busy the machine is.
    let options = EngineOptions { threads: options.threads.or(Some(1)), ..options };
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let model = ModelRef { backend: BackendKind::Llama, path: Some(path), draft: None };
    with_model(&Load::new(model, options), &mut |_| (), &mut test)
}

fn with(path: PathBuf, test: impl FnMut(&mut dyn ModelBackend, EngineInfo)) {
    try_with(path, EngineOptions::default(), test).unwrap();
}

fn user(content: &str) -> Vec<Message> {
    vec![Message::new(Role::User, content)]
}

fn greedy() -> Parameters {
    Parameters { temperature: Some(0.0), ..Parameters::DEFAULT }
}

/// Reads `prompt` into `seq` and decodes up to `limit` tokens, without other sequences.
fn generate(
    backend: &mut dyn ModelBackend,
    seq: SeqId,
    prompt: &[TokenId],
    params: &Parameters,
    limit: usize,
) -> (Vec<TokenId>, String) {
    backend.open(seq, params, prompt).unwrap();
    let mut feed = Feed { seq, start: 0, tokens: prompt.to_vec(), sample: true, drafts: 0 };
    let (mut tokens, mut text) = (Vec::new(), Vec::new());
    while tokens.len() < limit {
        let mut sampled = Vec::new();
        backend.forward(&Plan { feeds: vec![feed.clone()] }, &mut sampled).unwrap();
        let Sampled { token, end, piece, .. } = sampled.remove(0);
        if end {
            break;
        }
        tokens.push(token);
        text.extend(piece);
        feed = Feed {
            seq,
            start: feed.start + feed.tokens.len() as u32,
            tokens: vec![token],
            sample: true,
            drafts: 0,
        };
    }
    backend.close(seq);
    (tokens, String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn smollm2_knows_the_capital_of_france() {
    with(smollm(), |backend, engine| {
        assert!(backend.info().chat_template);
        // 98 MB of weights, and two rows of 49,152 logits for each sequence.
        assert_eq!(backend.info().n_seq_max, 40);
        assert!(!engine.system_info.is_empty());
        let text = backend.render_chat(&user("Tell me the capital of France."), &[]).unwrap();
        assert_eq!(
            text,
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging \
             Face<|im_end|>\n<|im_start|>user\nTell me the capital of France.<|im_end|>\n\
             <|im_start|>assistant\n"
        );
        let prompt = backend.tokenize(&text).unwrap();
        let (_, answer) = generate(backend, SeqId(0), &prompt, &greedy(), 32);
        assert_eq!(answer, "The capital of France is Paris.");
    });
}

#[test]
fn sequences_in_one_batch_do_not_see_each_other() {
    let capitals =
        [("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo"), ("Germany", "Berlin")];
    with(smollm(), |backend, _| {
        let mut feeds: Vec<Feed> = Vec::new();
        for (seq, (country, _)) in (0..).map(SeqId).zip(capitals) {
            let question = format!("Tell me the capital of {country}.");
            let tokens =
                backend.tokenize(&backend.render_chat(&user(&question), &[]).unwrap()).unwrap();
            backend.open(seq, &greedy(), &tokens).unwrap();
            feeds.push(Feed { seq, start: 0, tokens, sample: true, drafts: 0 });
        }
        // The second half begins while the first decodes.
        let mut late = feeds.split_off(2);
        let mut answers = vec![Vec::new(); capitals.len()];
        for _ in 0..16 {
            if feeds.is_empty() {
                break;
            }
            let mut sampled = Vec::new();
            backend.forward(&Plan { feeds: feeds.clone() }, &mut sampled).unwrap();
            assert_eq!(sampled.len(), feeds.len());
            feeds = feeds
                .iter()
                .zip(&sampled)
                .filter(|(_, sampled)| !sampled.end)
                .map(|(feed, sampled)| {
                    assert_eq!(feed.seq, sampled.seq);
                    answers[feed.seq.0 as usize].extend_from_slice(&sampled.piece);
                    let start = feed.start + feed.tokens.len() as u32;
                    Feed {
                        seq: feed.seq,
                        start,
                        tokens: vec![sampled.token],
                        sample: true,
                        drafts: 0,
                    }
                })
                .chain(late.drain(..))
                .collect();
        }
        for ((_, capital), answer) in capitals.iter().zip(answers) {
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.contains(capital), "{answer}");
        }
    });
}

#[test]
fn the_same_seed_gives_the_same_answer_and_no_seed_another() {
    with(smollm(), |backend, _| {
        let prompt = backend.tokenize("Once upon a time").unwrap();
        let with_seed = |seed| Parameters { seed, temperature: Some(1.0), ..Parameters::DEFAULT };
        let mut tokens = |seed| generate(backend, SeqId(0), &prompt, &with_seed(seed), 24).0;
        assert_eq!(tokens(Some(7)), tokens(Some(7)));
        assert_ne!(tokens(Some(7)), tokens(Some(8)));
        assert_ne!(tokens(None), tokens(None));
    });
}

#[test]
fn a_trimmed_sequence_goes_on_as_if_the_rest_had_never_been() {
    with(smollm(), |backend, _| {
        let prompt = backend.tokenize("The capital of France is").unwrap();
        let detour = backend.tokenize(" a city in which people eat").unwrap();
        let (alone, _) = generate(backend, SeqId(0), &prompt, &greedy(), 1);

        let seq = SeqId(5);
        backend.open(seq, &greedy(), &prompt).unwrap();
        let (last, before) = prompt.split_last().unwrap();
        let feed = |start, tokens: &[TokenId], sample| Plan {
            feeds: vec![Feed { seq, start, tokens: tokens.to_vec(), sample, drafts: 0 }],
        };
        let mut sampled = Vec::new();
        backend.forward(&feed(0, before, false), &mut sampled).unwrap();
        backend.forward(&feed(before.len() as u32, &detour, false), &mut sampled).unwrap();
        backend.trim(seq, before.len() as u32).unwrap();
        assert!(sampled.is_empty());
        backend.forward(&feed(before.len() as u32, &[*last], true), &mut sampled).unwrap();
        assert_eq!(sampled[0].token, alone[0]);
    });
}

#[test]
fn a_full_cache_is_said_and_changes_nothing() {
    let options = EngineOptions { context: Some(256), ..EngineOptions::default() };
    try_with(smollm(), options, |backend, _| {
        assert_eq!(backend.info().n_ctx, 256);
        let tokens = backend.tokenize(&"word ".repeat(300)).unwrap();
        let plan = |seq, start: u32, count: usize, sample| Plan {
            feeds: vec![Feed { seq, start, tokens: tokens[..count].to_vec(), sample, drafts: 0 }],
        };
        let (a, b) = (SeqId(0), SeqId(1));
        backend.open(a, &greedy(), &[]).unwrap();
        backend.open(b, &greedy(), &[]).unwrap();
        let mut sampled = Vec::new();
        backend.forward(&plan(a, 0, 200, false), &mut sampled).unwrap();
        let full = backend.forward(&plan(b, 0, 100, true), &mut sampled);
        assert!(matches!(full, Err(BackendError::CacheFull)), "{full:?}");
        assert!(sampled.is_empty());
        backend.forward(&plan(b, 0, 50, false), &mut sampled).unwrap();
        backend.close(a);
        backend.forward(&plan(b, 50, 100, true), &mut sampled).unwrap();
        assert_eq!(sampled.len(), 1);
    })
    .unwrap();
}

#[test]
fn what_would_abort_the_process_is_refused() {
    with(smollm(), |backend, _| {
        let mut sampled = Vec::new();
        let n_batch = backend.info().n_batch as usize;
        let sequences = backend.info().n_seq_max + backend.info().n_seq_spare;
        let mut refused = |backend: &mut dyn ModelBackend, feed: Feed| {
            let result = backend.forward(&Plan { feeds: vec![feed] }, &mut sampled);
            assert!(matches!(result, Err(BackendError::Broken(_))), "{result:?}");
        };
        let seq = SeqId(0);
        let feed = |seq, start, tokens| Feed { seq, start, tokens, sample: true, drafts: 0 };
        refused(backend, feed(seq, 0, vec![TokenId(5)]));
        backend.open(seq, &greedy(), &[]).unwrap();
        refused(backend, feed(seq, 3, vec![TokenId(5)]));
        refused(backend, feed(seq, 0, vec![TokenId(5); n_batch + 1]));
        refused(backend, feed(seq, 0, vec![TokenId(-1)]));
        refused(backend, feed(seq, 0, vec![TokenId(10_000_000)]));
        refused(backend, feed(seq, 0, vec![]));
        refused(backend, feed(SeqId(sequences), 0, vec![TokenId(5)]));
        assert!(backend.open(SeqId(sequences), &greedy(), &[]).is_err());
        let bad = Parameters { temperature: Some(f32::NAN), ..Parameters::DEFAULT };
        assert!(matches!(backend.open(seq, &bad, &[]), Err(BackendError::Request(_))));
        let mut sampled = Vec::new();
        let plan = Plan { feeds: vec![feed(seq, 0, vec![TokenId(5)])] };
        backend.forward(&plan, &mut sampled).unwrap();
        assert_eq!(sampled.len(), 1);
    });
}

#[test]
fn a_base_model_goes_on_with_the_text() {
    with(gemma(), |backend, _| {
        assert!(!backend.info().chat_template);
        let text = "One, two, three, four,";
        assert!(backend.render_chat(&user(text), &[]).is_err());
        let prompt = backend.tokenize(text).unwrap();
        let bos = prompt[0];
        assert_eq!(backend.tokenize("<bos>One, two, three, four,").unwrap(), prompt);
        assert_eq!(prompt.iter().filter(|token| **token == bos).count(), 1);
        let (_, answer) = generate(backend, SeqId(0), &prompt, &greedy(), 4);
        assert!(answer.contains("five"), "{answer}");
    });
}

#[test]
fn loading_tells_its_progress_and_sizes_follow_the_options() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let options = EngineOptions {
        context: Some(1024),
        sequences: Some(3),
        batch: Some(64),
        threads: Some(1),
        ..EngineOptions::default()
    };
    let model = ModelRef { backend: BackendKind::Llama, path: Some(smollm()), draft: None };
    let mut fractions = Vec::new();
    let mut served = 0;
    with_model(
        &Load::new(model, options),
        &mut |fraction| fractions.push(fraction),
        &mut |backend, engine| {
            let info = backend.info();
            assert_eq!((info.n_ctx, info.n_seq_max, info.n_batch), (1024, 3, 64));
            assert_eq!(engine.threads, 1);
            assert!(info.weight_bytes > 90_000_000);
            served += 1;
        },
    )
    .unwrap();
    assert_eq!(served, 1);
    assert!(fractions.is_sorted() && fractions.last() == Some(&1.0), "{fractions:?}");
}

#[test]
fn options_that_cannot_be_are_refused_with_both_numbers() {
    let bad =
        |options: EngineOptions| try_with(smollm(), options, |_, _| panic!("loaded")).unwrap_err();
    let none = EngineOptions::default;
    assert_eq!(bad(EngineOptions { sequences: Some(0), ..none() }).code, ErrorCode::Config);
    assert_eq!(bad(EngineOptions { sequences: Some(257), ..none() }).code, ErrorCode::Config);
    assert_eq!(bad(EngineOptions { batch: Some(0), ..none() }).code, ErrorCode::Config);
    let huge = bad(EngineOptions { context: Some(1_000_000_000), ..none() });
    assert_eq!(huge.code, ErrorCode::ModelLoad);
    assert!(huge.message.contains("1000000000") && huge.message.contains("MiB are free"), "{huge}");
}

#[test]
fn long_texts_without_a_space_are_tokenized_and_not_fatal() {
    for path in [smollm(), gemma()] {
        with(path, |backend, _| {
            for piece in ["a", "7", " ", "\n", "é", "世", "😀", "'s", "<|im_start|>"] {
                let text = piece.repeat(100_000 / piece.len());
                assert!(!backend.tokenize(&text).unwrap().is_empty());
            }
            assert!(backend.tokenize("").unwrap().len() <= 1);
            assert!(!backend.tokenize("a\0b").unwrap().is_empty());
        });
    }
}

#[test]
fn megabytes_are_refused_with_both_numbers_and_not_tokenized() {
    with(smollm(), |backend, _| {
        let refused = backend.tokenize(&"word ".repeat(1 << 20)).unwrap_err().into_failure();
        assert_eq!(refused.code, ErrorCode::ContextExceeded);
        assert!(refused.message.contains("holds 8192 tokens"), "{refused}");
    });
}

/// The backend tries out numbers of threads while decoding, which affects rounding in a long
/// context.
#[test]
fn a_seeded_answer_comes_out_the_same_again_however_many_threads_are_tried() {
    let options = EngineOptions { threads: Some(2), ..EngineOptions::default() };
    try_with(smollm(), options, |backend, _| {
        let prompt = backend.tokenize(&"The tide comes in. ".repeat(90)).unwrap();
        assert!((300..512).contains(&prompt.len()), "{}", prompt.len());
        let params = Parameters { seed: Some(7), temperature: Some(1.5), ..Parameters::DEFAULT };
        let mut answer = || generate(backend, SeqId(0), &prompt, &params, 96).0;
        let first = answer();
        assert_eq!(answer(), first);
        assert_eq!(answer(), first);
    })
    .unwrap();
}
