//! Drafts speed up answers and do not change them.

use std::time::Duration;

use super::super::{Drafts, Output};
use super::harness::{CANCELED, CUT, Harness, STOPPED, answer_in_words};
use crate::engine_protocol::EngineRequestId;
use crate::{ModelInfo, Parameters, Plan, PrefixCache, Priority};

fn with_drafts(n_ctx: u32, n_batch: u32, n_seq_max: u32) -> ModelInfo {
    let (n_seq_spare, prefix_cache, n_draft_max) = (8, PrefixCache::Any, 15);
    let info = ModelInfo { n_ctx, n_batch, n_seq_max, n_seq_spare, ..ModelInfo::default() };
    ModelInfo { prefix_cache, n_draft_max, ..info }
}

/// A harness with drafts, whose answers use this many different words.
fn harness(words: u64) -> Harness {
    let mut harness = Harness::of(with_drafts(1000, 64, 4));
    harness.fake.words = words;
    harness
}

fn drafts_of(harness: &Harness, id: EngineRequestId) -> Drafts {
    let of = |output: &Output| match output {
        Output::Finished { id: of, drafts, .. } if *of == id => Some(*drafts),
        _ => None,
    };
    harness.outputs.iter().find_map(of).unwrap()
}

fn drafted(plan: &Plan) -> usize {
    plan.feeds.iter().map(|feed| feed.drafts).sum()
}

#[test]
fn what_repeats_itself_takes_fewer_forward_passes_and_says_the_same() {
    let mut harness = harness(1);
    let prompt = harness.prompt(10, 200);
    let alone = answer_in_words(prompt.clone(), Parameters::default(), 1);
    let id = harness.submit_prompt(prompt, Parameters::default(), Priority::Normal).unwrap();
    harness.finish();
    assert_eq!((harness.ends(id), harness.text(id)), (STOPPED.into(), alone));
    assert!(harness.fake.passes.len() < 40, "{}", harness.fake.passes.len());
    let drafts = drafts_of(&harness, id);
    assert!(drafts.accepted > 160, "{drafts:?}");
}

#[test]
fn what_does_not_repeat_itself_has_no_drafts() {
    let mut harness = harness(1000);
    let id = harness.submit(10, 200);
    harness.finish();
    assert_eq!(drafts_of(&harness, id), Drafts::default());
    assert_eq!(harness.fake.passes.len(), 201);
}

#[test]
fn guesses_that_are_wrong_half_the_time_say_the_same() {
    let mut harness = harness(2);
    let prompt = harness.prompt(10, 300);
    let alone = answer_in_words(prompt.clone(), Parameters::default(), 2);
    let id = harness.submit_prompt(prompt, Parameters::default(), Priority::Normal).unwrap();
    harness.finish();
    assert_eq!(harness.text(id), alone);
    let drafts = drafts_of(&harness, id);
    assert!(0 < drafts.accepted && drafts.accepted < drafts.drafted, "{drafts:?}");
}

#[test]
fn drafts_that_were_seen_to_cost_as_much_as_they_save_are_given_up() {
    let mut harness = harness(1);
    harness.submit(10, 900);
    let mut last = Vec::new();
    while !harness.scheduler.is_idle() {
        let plan = harness.step();
        let tokens = plan.n_tokens() as u32;
        harness.scheduler.took(&plan, Duration::from_millis(10) * tokens);
        last.push(drafted(&plan));
    }
    assert!(last.iter().any(|drafts| *drafts > 0), "they were never tried");
    let late = &last[last.len() / 2..];
    let with = late.iter().filter(|drafts| **drafts > 0).count();
    assert!(with * 10 < late.len(), "{with} of {}", late.len());
}

#[test]
fn who_is_to_get_the_same_answer_again_has_no_drafts_unless_it_was_asked_for() {
    for (draft_repeatable, params) in [
        (false, Parameters { temperature: Some(0.0), ..Parameters::default() }),
        (false, Parameters { seed: Some(1), ..Parameters::default() }),
        (true, Parameters { temperature: Some(0.0), ..Parameters::default() }),
    ] {
        let info = ModelInfo { draft_repeatable, ..with_drafts(1000, 64, 4) };
        let mut harness = Harness::of(info);
        harness.fake.words = 1;
        let prompt = harness.prompt(10, 100);
        let id = harness.submit_prompt(prompt, params, Priority::Normal).unwrap();
        harness.finish();
        assert_eq!(drafts_of(&harness, id).drafted > 0, draft_repeatable);
    }
}

#[test]
fn while_a_prompt_is_read_there_are_no_drafts() {
    let mut harness = harness(1);
    harness.submit(10, 500);
    while drafted(&harness.step()) == 0 {}
    harness.submit(300, 1);
    for _ in 0..4 {
        assert_eq!(drafted(&harness.step()), 0);
    }
}

#[test]
fn an_answer_does_not_go_beyond_max_tokens_or_the_context_for_its_drafts() {
    let mut harness = harness(1);
    let prompt = harness.prompt(10, 500);
    let params = Parameters { max_tokens: Some(77), ..Parameters::default() };
    let limited = harness.submit_prompt(prompt, params, Priority::Normal).unwrap();
    harness.finish();
    assert_eq!((harness.ends(limited), harness.words(limited)), (CUT.into(), 77));
    let full = harness.submit(900, 500);
    harness.finish();
    assert_eq!((harness.ends(full), harness.words(full)), (CUT.into(), 100));
    assert!(drafts_of(&harness, full).accepted > 0);
}

#[test]
fn a_stop_text_among_drafts_that_came_true_ends_the_answer_before_it() {
    let mut harness = harness(1);
    let prompt = harness.prompt(10, 500);
    let params = Parameters { stop: vec!["1000 ".repeat(30)], ..Parameters::default() };
    let id = harness.submit_prompt(prompt, params, Priority::Normal).unwrap();
    harness.finish();
    assert_eq!((harness.ends(id), harness.text(id)), (STOPPED.into(), String::new()));
    assert!(drafts_of(&harness, id).accepted > 0);
}

#[test]
fn a_full_cache_costs_the_drafts_and_nobody_else_anything() {
    let mut harness = harness(1);
    let other = harness.submit(300, 0);
    harness.finish();
    let id = harness.submit(10, 500);
    while drafted(&harness.step()) == 0 {}
    // The backend has one cell left and reports a full cache.
    harness.fake.cells = harness.scheduler.cells_used() + 1;
    let refused = harness.step();
    assert!(drafted(&refused) > 0);
    let kept = harness.scheduler.cells_used();
    let next = harness.step();
    assert_eq!((drafted(&next), harness.scheduler.cells_used()), (0, kept + 1));
    harness.fake.cells = 1000;
    harness.finish();
    assert_eq!((harness.ends(id), harness.ends(other)), (STOPPED.into(), STOPPED.into()));
}

#[test]
fn a_sequence_canceled_while_its_drafts_are_checked_leaves_no_trace() {
    let mut harness = harness(1);
    let canceled = harness.submit(10, 500);
    while drafted(&harness.step()) == 0 {}
    let mut step = harness.scheduler.plan();
    assert!(drafted(&step.forward) > 0);
    let outcome = step.carry_out(&mut harness.fake);
    assert!(harness.cancel(canceled));
    harness.scheduler.apply(step, outcome, &mut harness.outputs);
    assert_eq!(harness.ends(canceled), CANCELED);
    harness.finish();
}

#[test]
fn a_backend_that_samples_nothing_though_it_has_drafts_fails_the_request() {
    let mut harness = harness(1);
    let id = harness.submit(10, 500);
    while drafted(&harness.step()) == 0 {}
    harness.fake.mute = true;
    harness.step();
    assert_eq!(harness.ends(id).len(), 1);
}
