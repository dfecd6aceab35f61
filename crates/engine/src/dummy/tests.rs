use threadrunner_core::Feed;
use threadrunner_core::scheduler::{Output, Request, Scheduler};
use threadrunner_core::{BackendKind, FinishReason, ModelRef, Priority};

use super::*;
use threadrunner_core::engine_protocol::{EngineOptions, EngineRequestId};

fn load(options: EngineOptions) -> Load {
    let model = ModelRef { backend: BackendKind::Dummy, path: None, draft: None };
    Load::new(model, options)
}

fn scripted(script: DummyScript) -> Load {
    load(EngineOptions { dummy: Some(script), ..EngineOptions::default() })
}

/// What a loaded dummy answers to `prompt` alone, and how it ended.
fn answer(load: &Load, prompt: &str, params: Parameters) -> (String, Output) {
    let mut outputs = Vec::new();
    with_model(load, &mut |_| {}, &mut |backend, _| {
        let mut scheduler = Scheduler::new(backend.info());
        let prompt = backend.tokenize(prompt).unwrap();
        let params = params.clone();
        scheduler
            .submit(Request {
                id: EngineRequestId(1),
                prompt,
                params,
                priority: Priority::Normal,
                session: None,
            })
            .unwrap();
        while !scheduler.is_idle() {
            let mut step = scheduler.plan();
            let outcome = step.carry_out(backend);
            scheduler.apply(step, outcome, &mut outputs);
        }
    })
    .unwrap();
    let end = outputs.pop().unwrap();
    let text = outputs.iter().filter_map(|output| match output {
        Output::Text { text, .. } => Some(text.as_str()),
        _ => None,
    });
    (text.collect(), end)
}

fn reason(end: &Output) -> FinishReason {
    let Output::Finished { finish_reason, .. } = end else { panic!("{end:?}") };
    *finish_reason
}

#[test]
fn it_answers_as_promised() {
    let load = load(EngineOptions::default());
    let (text, end) = answer(&load, "Hello, how are you?", Parameters::default());
    assert_eq!(text, "lorem ipsum dolor sit amet Hello. how. are. you.");
    assert_eq!(reason(&end), FinishReason::Stop);
}

#[test]
fn max_tokens_counts_words() {
    let load = load(EngineOptions::default());
    let params = Parameters { max_tokens: Some(3), ..Parameters::default() };
    let (text, end) = answer(&load, "Hello", params);
    assert_eq!((text.as_str(), reason(&end)), ("lorem ipsum dolor", FinishReason::Length));
}

#[test]
fn the_script_sets_the_number_of_words() {
    let load = scripted(DummyScript { words: Some(6), ..DummyScript::default() });
    let (text, _) = answer(&load, "Hello", Parameters::default());
    assert_eq!(text, "lorem ipsum dolor sit amet 6.");
}

#[test]
fn the_script_makes_an_answer_that_never_ends_and_repetition_ends_it() {
    let loops = vec!["over".into(), "and".into(), "over".into(), "again.".into()];
    let load = scripted(DummyScript { loops, ..DummyScript::default() });
    let ended = |repeat_limit, max_tokens| {
        let params = Parameters { repeat_limit, max_tokens, ..Parameters::default() };
        let (text, end) = answer(&load, "Hello", params.or(&Parameters::DEFAULT));
        assert!(
            text.starts_with("lorem ipsum dolor sit amet Hello. over and over again. over and")
        );
        (reason(&end), text.split(' ').count())
    };
    // Checked every 32 tokens.
    assert_eq!(ended(None, None), (FinishReason::Repetition, 1024));
    assert_eq!(ended(Some(64), None), (FinishReason::Repetition, 96));
    assert_eq!(ended(Some(0), None), (FinishReason::Length, 4096));
    assert_eq!(ended(None, Some(1000)), (FinishReason::Length, 1000));
}

#[test]
fn the_script_makes_a_sequence_fail_after_some_words() {
    let load = scripted(DummyScript { fail_after: Some(2), ..DummyScript::default() });
    let (text, end) = answer(&load, "Hello", Parameters::default());
    assert_eq!(text, "lorem ipsum");
    let Output::Failed { failure, .. } = end else { panic!("{end:?}") };
    assert_eq!(failure.code, ErrorCode::Inference);
}

#[test]
fn the_script_makes_loading_fail_after_its_steps() {
    let load =
        scripted(DummyScript { load_error: Some("no such luck".into()), ..DummyScript::default() });
    let mut seen = Vec::new();
    let failure = with_model(&load, &mut |f| seen.push(f), &mut |_, _| panic!("it was loaded"));
    let failure = failure.unwrap_err();
    assert_eq!((failure.code, failure.message.as_str()), (ErrorCode::ModelLoad, "no such luck"));
    assert_eq!(seen.len(), 10);
    assert_eq!(seen.last(), Some(&1.0));
}

#[test]
fn the_options_set_its_size() {
    let options = EngineOptions {
        context: Some(100),
        sequences: Some(3),
        batch: Some(7),
        ..EngineOptions::default()
    };
    with_model(&load(options), &mut |_| {}, &mut |backend, _| {
        let info = backend.info();
        assert_eq!((info.n_ctx, info.n_seq_max, info.n_batch), (100, 3, 7));
    })
    .unwrap();
}

#[test]
fn a_conversation_is_what_the_user_said_last() {
    let message = |role, content: &str| Message::new(role, content);
    with_model(&load(EngineOptions::default()), &mut |_| {}, &mut |backend, _| {
        let conversation = [
            message(Role::System, "Be brief."),
            message(Role::User, "One?"),
            message(Role::Assistant, "Two."),
            message(Role::User, "Three?"),
        ];
        assert_eq!(backend.render_chat(&conversation, &[]).unwrap(), "Three?");
        assert_eq!(backend.render_chat(&[], &[]).unwrap(), "");
    })
    .unwrap();
}

#[test]
fn a_feed_at_the_wrong_place_is_noticed() {
    with_model(&load(EngineOptions::default()), &mut |_| {}, &mut |backend, _| {
        let tokens = backend.tokenize("Hi").unwrap();
        backend.open(SeqId(0), &Parameters::DEFAULT, &tokens).unwrap();
        let feed = Feed { seq: SeqId(0), start: 1, tokens, sample: true, drafts: 0 };
        let failed = backend.forward(&Plan { feeds: vec![feed] }, &mut Vec::new());
        assert!(matches!(failed, Err(BackendError::Broken(_))));
    })
    .unwrap();
}

fn with_a_dummy(test: impl FnOnce(&mut Dummy)) {
    let info = ModelInfo {
        n_ctx: 1000,
        n_batch: 100,
        n_seq_max: 8,
        n_seq_spare: 8,
        prefix_cache: PrefixCache::Any,
        ..ModelInfo::default()
    };
    test(&mut Dummy::new(info, DummyScript::default()));
}

#[test]
fn prompts_that_begin_alike_are_computed_once_and_answered_each() {
    with_a_dummy(|dummy| {
        let mut scheduler = Scheduler::new(dummy.info());
        let prefix = "one two three four five six seven eight ";
        let tails = ["nine", "ten", "eleven"];
        for (id, tail) in (0..).map(EngineRequestId).zip(tails) {
            let prompt = dummy.tokenize(&format!("{prefix}{tail}")).unwrap();
            let (params, priority) = (Parameters::default(), Priority::Normal);
            scheduler.submit(Request { id, prompt, params, priority, session: None }).unwrap();
        }
        let (mut outputs, mut words) = (Vec::new(), 0);
        while !scheduler.is_idle() {
            let mut step = scheduler.plan();
            let outcome = step.carry_out(dummy);
            scheduler.apply(step, outcome, &mut outputs);
        }
        for (id, tail) in (0..).map(EngineRequestId).zip(tails) {
            let texts = outputs.iter().filter_map(|output| match output {
                Output::Text { id: of, text } if *of == id => Some(text.as_str()),
                _ => None,
            });
            let expected = answer::to(&format!("{prefix}{tail}"));
            words += expected.len();
            assert_eq!(texts.collect::<String>(), expected.join(" "));
        }
        let tails: usize = tails.iter().map(|tail| tail.len()).sum();
        assert_eq!(dummy.cells.computed() as usize, prefix.len() + tails + words);
    });
}

#[test]
fn what_it_says_follows_from_the_cells_that_it_has() {
    with_a_dummy(|dummy| {
        let (one, other) = (SeqId(0), SeqId(1));
        for seq in [one, other] {
            dummy.open(seq, &Parameters::DEFAULT, &[]).unwrap();
        }
        let mut sampled = Vec::new();
        let tokens = dummy.tokenize("wrong ").unwrap();
        let feed = Feed { seq: one, start: 0, tokens, sample: false, drafts: 0 };
        dummy.forward(&Plan { feeds: vec![feed] }, &mut sampled).unwrap();
        dummy.copy(one, other, 6).unwrap();
        assert!(dummy.copy(one, other, 7).is_err());
        dummy.copy(one, other, 6).unwrap();
        assert_eq!(dummy.cells.used(), 6);
        let mut feed = Feed {
            seq: other,
            start: 6,
            tokens: dummy.tokenize("right").unwrap(),
            sample: true,
            drafts: 0,
        };
        for _ in 0..6 {
            dummy.forward(&Plan { feeds: vec![feed.clone()] }, &mut sampled).unwrap();
            let start = feed.start + feed.tokens.len() as u32;
            let token = sampled.last().unwrap().token;
            feed = Feed { seq: other, start, tokens: vec![token], sample: true, drafts: 0 };
        }
        assert_eq!(sampled[5].piece, b" wrong.");
        dummy.close(one);
        dummy.close(other);
        assert_eq!(dummy.cells.used(), 0);
    });
}

#[test]
fn drafts_that_come_true_are_said_at_once_and_others_leave_no_cells() {
    let (load, one) = (load(EngineOptions::default()), SeqId(0));
    with_model(&load, &mut |_| {}, &mut |backend, _| {
        let prompt = backend.tokenize("Hi").unwrap();
        backend.open(one, &Parameters::DEFAULT, &prompt).unwrap();
        let said = |backend: &mut dyn ModelBackend, start: usize, tokens: Vec<TokenId>, drafts| {
            let feed = Feed { seq: one, start: start as u32, tokens, sample: true, drafts };
            let mut sampled = Vec::new();
            backend.forward(&Plan { feeds: vec![feed] }, &mut sampled).unwrap();
            sampled
        };
        let words = |sampled: &[Sampled]| {
            let pieces = sampled.iter().flat_map(|sampled| sampled.piece.clone()).collect();
            String::from_utf8(pieces).unwrap()
        };
        let word = |n| TokenId(FIRST_WORD + n);
        let first = said(backend, 0, prompt.clone(), 0);
        assert_eq!(words(&first), "lorem");
        let run = said(backend, 2, vec![word(0), word(1), word(2), word(9)], 3);
        assert_eq!(words(&run), " ipsum dolor sit");
        // The wrong draft is not cached; otherwise this feed would start at the wrong place.
        let rest = said(backend, 5, vec![word(3), word(4), word(5), word(6)], 3);
        assert_eq!(words(&rest), " amet Hi.");
        assert!(rest.last().unwrap().end);
    })
    .unwrap();
}
