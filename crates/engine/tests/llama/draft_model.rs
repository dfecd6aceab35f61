//! Draft models: their guesses come true and do not change the text.

use std::path::PathBuf;
use std::time::Duration;

use threadrunner_core::engine_protocol::EngineRequestId;
use threadrunner_core::scheduler::{Drafts, Output, Request, Scheduler};
use threadrunner_core::{Draft, DraftRequest, FinishReason, Priority};

use super::*;

fn load_of(model: PathBuf, draft: PathBuf, options: EngineOptions) -> Load {
    let options = EngineOptions { threads: Some(1), context: Some(2048), ..options };
    let model = ModelRef { backend: BackendKind::Llama, path: Some(model), draft: Some(draft) };
    Load::new(model, options)
}

fn with_draft(
    draft: PathBuf,
    options: EngineOptions,
    test: &mut dyn FnMut(&mut dyn ModelBackend),
) -> Result<(), Failure> {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let load = load_of(smollm(), draft, options);
    with_model(&load, &mut |_| (), &mut |backend, _| test(backend))
}

/// Answers all prompts side by side. Returns the answers and the number of forward passes. All
/// passes are reported to take the same time, so guessing always seems to pay.
fn answers(
    backend: &mut dyn ModelBackend,
    prompts: &[Vec<TokenId>],
    max_tokens: u32,
) -> (Vec<(String, Drafts)>, usize) {
    let mut scheduler = Scheduler::new(backend.info());
    for (id, prompt) in (0..).zip(prompts) {
        let params = Parameters { max_tokens: Some(max_tokens), ..greedy() };
        let (prompt, priority, session) = (prompt.clone(), Priority::Normal, None);
        scheduler
            .submit(Request { id: EngineRequestId(id), prompt, params, priority, session })
            .unwrap();
    }
    let mut answers = vec![(String::new(), Drafts::default()); prompts.len()];
    let mut passes = 0;
    while !scheduler.is_idle() {
        let mut out = Vec::new();
        let mut step = scheduler.plan();
        let mut outcome = step.carry_out(backend);
        outcome.drafting = Duration::from_micros(1);
        scheduler.took(&step.forward, Duration::from_millis(10));
        passes += usize::from(!step.forward.feeds.is_empty());
        scheduler.apply(step, outcome, &mut out);
        for output in out {
            match output {
                Output::Text { id, text } => answers[id.0 as usize].0.push_str(&text),
                Output::Finished { id, drafts, finish_reason, .. } => {
                    assert_ne!(finish_reason, FinishReason::Canceled);
                    answers[id.0 as usize].1 = drafts;
                }
                Output::Failed { failure, .. } => panic!("{failure}"),
                Output::Prefill { .. } | Output::Started { .. } => {}
            }
        }
    }
    (answers, passes)
}

fn prompts(backend: &dyn ModelBackend) -> Vec<Vec<TokenId>> {
    let questions =
        ["Why is the sky blue?", "What is a river?", "Tell me a story of a fox.", "Name a colour."];
    let prompt =
        |question| backend.tokenize(&backend.render_chat(&user(question), &[]).unwrap()).unwrap();
    questions.into_iter().map(prompt).collect()
}

#[test]
fn a_model_that_guesses_for_itself_is_right_and_the_text_stays_the_same() {
    let mut alone = Vec::new();
    let plain = EngineOptions { threads: Some(1), context: Some(2048), ..EngineOptions::default() };
    try_with(smollm(), plain, |backend, _| {
        for prompt in prompts(backend) {
            alone.extend(answers(backend, &[prompt], 48).0);
        }
    })
    .unwrap();
    with_draft(smollm(), EngineOptions::default(), &mut |backend| {
        assert_eq!(backend.info().draft_model, Some("SmolLM2-135M-Instruct.Q4_1".into()));
        for (prompt, (text, none)) in prompts(backend).into_iter().zip(&alone) {
            assert_eq!(*none, Drafts::default());
            let (drafted, passes) = answers(backend, &[prompt], 48);
            let (said, drafts) = &drafted[0];
            assert_eq!(said, text);
            assert!(passes < 24, "{passes} passes");
            // Some of the last drafts may go beyond the end.
            assert!(drafts.accepted + 16 > drafts.drafted, "{drafts:?}");
            assert!(drafts.accepted > 0, "{drafts:?}");
        }
    })
    .unwrap();
}

#[test]
fn many_side_by_side_are_guessed_for_in_one_pass_each_and_say_the_same() {
    with_draft(smollm(), EngineOptions::default(), &mut |backend| {
        let prompts = prompts(backend);
        let alone: Vec<_> = prompts
            .iter()
            .map(|prompt| answers(backend, std::slice::from_ref(prompt), 40).0.remove(0).0)
            .collect();
        let (together, passes) = answers(backend, &prompts, 40);
        for ((said, drafts), alone) in together.iter().zip(&alone) {
            assert_eq!(said, alone);
            assert!(drafts.accepted > 0, "{drafts:?}");
        }
        assert!(passes < 40, "{passes}");
    })
    .unwrap();
}

#[test]
fn it_follows_what_was_said_however_it_is_cut_and_reads_long_texts_first() {
    with_draft(smollm(), EngineOptions::default(), &mut |backend| {
        let seq = SeqId(0);
        let request = |tokens: &[TokenId], n| DraftRequest { seq, tokens: tokens.to_vec(), n };
        let said = |backend: &mut dyn ModelBackend, request: DraftRequest| {
            backend.draft(&[request]).drafts.remove(0)
        };
        let count = backend.tokenize("One, two, three, four, five, six, seven,").unwrap();
        let Draft::Tokens(guess) = said(backend, request(&count, 2)) else { panic!("no guess") };
        assert_eq!(guess, backend.tokenize(" eight,").unwrap());
        // The same text again, then cut in the middle.
        assert_eq!(said(backend, request(&count, 2)), Draft::Tokens(guess));
        let short = backend.tokenize("One, two, three,").unwrap();
        let four = backend.tokenize(" four,").unwrap();
        assert_eq!(said(backend, request(&short, 2)), Draft::Tokens(four));
        // Longer than a batch.
        let mut long = backend.tokenize(&"word, ".repeat(400)).unwrap();
        long.extend(&count);
        assert_eq!(said(backend, request(&long, 1)), Draft::Reading);
        assert_eq!(said(backend, request(&long, 1)), Draft::Reading);
        assert!(matches!(said(backend, request(&long, 1)), Draft::Tokens(it) if it.len() == 1));
        // Another sequence shares what was read.
        let other = DraftRequest { seq: SeqId(1), tokens: long.clone(), n: 1 };
        assert!(matches!(said(backend, other), Draft::Tokens(it) if it.len() == 1));
        // Beyond its context, and outside its vocabulary.
        let endless = vec![long[0]; 2048];
        assert_eq!(said(backend, request(&endless, 1)), Draft::Never);
        assert_eq!(said(backend, request(&[TokenId(1 << 30)], 1)), Draft::Never);
        assert_eq!(said(backend, request(&[TokenId(-1)], 1)), Draft::Never);
        assert_eq!(said(backend, request(&[], 1)), Draft::Never);
    })
    .unwrap();
}

#[test]
fn a_full_cache_of_the_draft_model_makes_room_and_fails_nothing() {
    let options = EngineOptions { sequences: Some(4), ..EngineOptions::default() };
    with_draft(smollm(), options, &mut |backend| {
        // Two of them fill the cache, and none shares a beginning with another.
        let text = |seq: u32| {
            let bos = backend.tokenize("a").unwrap()[0].0;
            (0..1000).map(|n| TokenId(bos + 1000 + (n * 7 + seq as i32 * 13) % 500)).collect()
        };
        let requests: Vec<_> =
            (0..4).map(|seq| DraftRequest { seq: SeqId(seq), tokens: text(seq), n: 2 }).collect();
        for request in &requests {
            let alone = || std::slice::from_ref(request);
            let mut calls = 0;
            while backend.draft(alone()).drafts[0] == Draft::Reading {
                calls += 1;
                assert!(calls < 10);
            }
            assert!(matches!(backend.draft(alone()).drafts[0], Draft::Tokens(_)));
        }
        // They do not all fit at once: some are turned away, and the others go on.
        let mut drafts = Vec::new();
        for _ in 0..20 {
            drafts = backend.draft(&requests).drafts;
            if !drafts.contains(&Draft::Reading) {
                break;
            }
        }
        assert!(drafts.iter().any(|draft| matches!(draft, Draft::Tokens(_))), "{drafts:?}");
    })
    .unwrap();
}

#[test]
fn a_draft_model_of_other_tokens_is_refused_with_both_names() {
    let failure =
        with_draft(gemma(), EngineOptions::default(), &mut |_| panic!("loaded")).unwrap_err();
    assert_eq!(failure.code, ErrorCode::ModelLoad);
    for file in [smollm(), gemma()] {
        assert!(failure.message.contains(file.to_str().unwrap()), "{failure}");
    }
    assert!(failure.message.contains("vocabularies differ"), "{failure}");
}

#[test]
fn what_is_no_model_is_no_draft_model() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("no-model.gguf");
    std::fs::write(&file, "no model").unwrap();
    let failure =
        with_draft(file.clone(), EngineOptions::default(), &mut |_| panic!("loaded")).unwrap_err();
    assert!(failure.message.contains(file.to_str().unwrap()), "{failure}");
    assert!(failure.message.contains(smollm().to_str().unwrap()), "{failure}");
    let missing = folder.path().join("missing.gguf");
    assert!(with_draft(missing, EngineOptions::default(), &mut |_| panic!("loaded")).is_err());
}

#[test]
fn options_that_leave_it_nothing_to_do_are_refused() {
    for (options, name) in [
        (EngineOptions { deterministic: Some(true), ..EngineOptions::default() }, "deterministic"),
        (EngineOptions { speculation: Some(false), ..EngineOptions::default() }, "speculation"),
    ] {
        let failure = with_draft(smollm(), options, &mut |_| panic!("loaded")).unwrap_err();
        assert_eq!(failure.code, ErrorCode::Config);
        assert!(failure.message.contains(name), "{failure}");
    }
}
