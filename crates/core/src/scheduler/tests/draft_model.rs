//! A draft model speeds up answers and does not change them.

use std::time::Duration;

use super::super::{Drafts, Output};
use super::harness::{CANCELED, Harness, STOPPED, answer_alone, answer_in_words};
use crate::engine_protocol::EngineRequestId;
use crate::{Draft, ModelInfo, Parameters, PrefixCache, Priority, TokenId};

fn with_model(n_ctx: u32, n_batch: u32, n_seq_max: u32) -> ModelInfo {
    let (n_seq_spare, prefix_cache, n_draft_max) = (8, PrefixCache::Any, 15);
    let info = ModelInfo { n_ctx, n_batch, n_seq_max, n_seq_spare, ..ModelInfo::default() };
    ModelInfo { prefix_cache, n_draft_max, draft_model: Some("small".into()), ..info }
}

/// A harness with a draft model, whose answers do not repeat themselves.
fn harness() -> Harness {
    Harness::of(with_model(2000, 64, 4))
}

fn drafts_of(harness: &Harness, id: EngineRequestId) -> Drafts {
    let of = |output: &Output| match output {
        Output::Finished { id: of, drafts, .. } if *of == id => Some(*drafts),
        _ => None,
    };
    harness.outputs.iter().find_map(of).unwrap()
}

/// Runs to the end on a machine where a forward pass of one token takes 10 ms, and each further
/// token takes `further`. Returns how many guesses each step asked for.
fn run_for(harness: &mut Harness, further: Duration) -> Vec<usize> {
    let mut asked = Vec::new();
    while !harness.scheduler.is_idle() {
        let before = harness.fake.guesses.len();
        let plan = harness.step();
        let further = further * (plan.n_tokens() as u32).saturating_sub(1);
        harness.scheduler.took(&plan, Duration::from_millis(10) + further);
        asked.push(harness.fake.guesses[before..].iter().map(|(_, n)| n).sum());
    }
    asked
}

const CHEAP: Duration = Duration::from_millis(2);

#[test]
fn right_guesses_take_fewer_forward_passes_and_say_the_same() {
    let mut harness = harness();
    let prompt = harness.prompt(10, 300);
    let alone = answer_alone(prompt.clone(), Parameters::default());
    let id = harness.submit_prompt(prompt, Parameters::default(), Priority::Normal).unwrap();
    run_for(&mut harness, CHEAP);
    assert_eq!((harness.ends(id), harness.text(id)), (STOPPED.into(), alone));
    assert!(harness.fake.passes.len() < 60, "{}", harness.fake.passes.len());
    let drafts = drafts_of(&harness, id);
    // The last guesses went beyond the end.
    assert!(drafts.accepted > 240 && drafts.accepted + 16 > drafts.drafted, "{drafts:?}");
}

#[test]
fn guesses_that_are_right_for_a_while_say_the_same() {
    for wrong in [2, 3, 7] {
        let mut harness = harness();
        harness.fake.draft_wrong = wrong;
        let prompt = harness.prompt(10, 300);
        let alone = answer_alone(prompt.clone(), Parameters::default());
        let id = harness.submit_prompt(prompt, Parameters::default(), Priority::Normal).unwrap();
        run_for(&mut harness, CHEAP);
        assert_eq!((harness.ends(id), harness.text(id)), (STOPPED.into(), alone));
    }
}

#[test]
fn a_draft_model_that_is_always_wrong_is_soon_left_alone_and_changes_nothing() {
    let mut harness = harness();
    harness.fake.draft_wrong = 1;
    let prompt = harness.prompt(10, 800);
    let alone = answer_alone(prompt.clone(), Parameters::default());
    let id = harness.submit_prompt(prompt, Parameters::default(), Priority::Normal).unwrap();
    let asked = run_for(&mut harness, CHEAP);
    assert_eq!(harness.text(id), alone);
    let drafts = drafts_of(&harness, id);
    assert!(0 < drafts.drafted && drafts.drafted < 60 && drafts.accepted == 0, "{drafts:?}");
    let late = asked[asked.len() / 4..].iter().filter(|n| **n > 0).count();
    assert!(late < 10, "{asked:?}");
    // The next request starts with what the first learned.
    let next = harness.submit(10, 300);
    run_for(&mut harness, CHEAP);
    assert!(drafts_of(&harness, next).drafted < 10, "{:?}", drafts_of(&harness, next));
}

#[test]
fn guesses_that_take_longer_than_they_save_end() {
    let mut harness = harness();
    harness.fake.draft_takes = Duration::from_millis(12);
    harness.submit(10, 800);
    let asked = run_for(&mut harness, CHEAP);
    assert!(asked.iter().any(|n| *n > 0), "they were never tried");
    let late = asked[asked.len() / 4..].iter().filter(|n| **n > 0).count();
    assert!(late < 10, "{asked:?}");
}

#[test]
fn what_took_long_once_is_tried_again_some_time() {
    let mut harness = Harness::of(with_model(20_000, 64, 1));
    harness.fake.draft_takes = Duration::from_millis(12);
    harness.submit(10, 300);
    run_for(&mut harness, CHEAP);
    harness.fake.draft_takes = Duration::from_millis(1);
    harness.submit(10, 8000);
    let asked = run_for(&mut harness, CHEAP);
    assert_eq!(asked[..100].iter().sum::<usize>(), 0);
    assert!(asked[asked.len() - 100..].iter().all(|n| *n > 0), "{asked:?}");
}

#[test]
fn while_it_reads_what_was_said_there_are_no_drafts_and_nothing_waits() {
    let mut harness = harness();
    harness.fake.draft_says = Some(Draft::Reading);
    let id = harness.submit(10, 50);
    for _ in 0..20 {
        let plan = harness.step();
        assert_eq!(plan.feeds.iter().map(|feed| feed.drafts).sum::<usize>(), 0);
    }
    harness.fake.draft_says = None;
    run_for(&mut harness, CHEAP);
    assert_eq!(harness.ends(id), STOPPED);
    assert!(drafts_of(&harness, id).accepted > 10);
}

#[test]
fn where_it_cannot_guess_it_is_not_asked_again_and_what_repeats_itself_is_looked_up() {
    let mut harness = harness();
    harness.fake.draft_says = Some(Draft::Never);
    harness.fake.words = 1;
    let id = harness.submit(10, 200);
    harness.finish();
    assert_eq!(harness.fake.guesses.len(), 1);
    assert!(drafts_of(&harness, id).accepted > 100);
}

#[test]
fn what_is_looked_up_goes_first_where_it_is_as_likely() {
    let mut harness = harness();
    harness.fake.words = 1;
    // Half of the model's guesses are wrong, and lookup is always right.
    harness.fake.draft_wrong = 2;
    let prompt = harness.prompt(10, 400);
    let alone = answer_in_words(prompt.clone(), Parameters::default(), 1);
    let id = harness.submit_prompt(prompt, Parameters::default(), Priority::Normal).unwrap();
    let asked = run_for(&mut harness, CHEAP);
    assert_eq!(harness.text(id), alone);
    assert_eq!(asked[asked.len() / 2..].iter().sum::<usize>(), 0, "{asked:?}");
    assert!(drafts_of(&harness, id).accepted > 200);
}

#[test]
fn more_tokens_than_were_asked_for_are_not_fed() {
    let mut harness = harness();
    harness.fake.draft_says = Some(Draft::Tokens(vec![TokenId(1); 100]));
    let id = harness.submit(10, 50);
    harness.finish();
    assert_eq!(harness.ends(id), STOPPED);
}

#[test]
fn an_answer_does_not_go_beyond_max_tokens_or_the_context() {
    let mut harness = harness();
    let prompt = harness.prompt(10, 500);
    let params = Parameters { max_tokens: Some(77), ..Parameters::default() };
    let limited = harness.submit_prompt(prompt, params, Priority::Normal).unwrap();
    run_for(&mut harness, CHEAP);
    assert_eq!(harness.words(limited), 77);
    let full = harness.submit(1900, 500);
    run_for(&mut harness, CHEAP);
    assert_eq!(harness.words(full), 100);
    assert!(drafts_of(&harness, full).accepted > 0);
}

#[test]
fn greedy_requests_have_them_and_seeded_ones_do_not_unless_it_was_asked_for() {
    let greedy = Parameters { temperature: Some(0.0), ..Parameters::default() };
    let seeded = Parameters { seed: Some(1), ..Parameters::default() };
    let both = Parameters { seed: Some(1), ..greedy.clone() };
    for (draft_greedy, draft_repeatable, params, drafted) in [
        (true, false, greedy.clone(), true),
        (true, false, seeded.clone(), false),
        (true, false, both.clone(), false),
        (false, false, greedy, false),
        (true, true, both, true),
        (false, true, seeded, true),
    ] {
        let info = ModelInfo { draft_greedy, draft_repeatable, ..with_model(1000, 64, 4) };
        let mut harness = Harness::of(info);
        let prompt = harness.prompt(10, 100);
        let id = harness.submit_prompt(prompt, params.clone(), Priority::Normal).unwrap();
        harness.finish();
        assert_eq!(drafts_of(&harness, id).drafted > 0, drafted, "{params:?}");
    }
}

#[test]
fn a_sequence_canceled_between_its_guesses_and_what_came_of_them_leaves_no_trace() {
    let mut harness = harness();
    let canceled = harness.submit(10, 500);
    let other = harness.submit(10, 500);
    while harness.fake.guesses.is_empty() {
        harness.step();
    }
    let mut step = harness.scheduler.plan();
    assert!(!step.drafting.is_empty());
    let outcome = step.carry_out(&mut harness.fake);
    assert!(harness.cancel(canceled));
    harness.scheduler.apply(step, outcome, &mut harness.outputs);
    assert_eq!(harness.ends(canceled), CANCELED);
    run_for(&mut harness, CHEAP);
    assert_eq!((harness.ends(other), harness.words(other)), (STOPPED.into(), 500));
}

#[test]
fn a_full_cache_costs_the_guesses_and_nobody_else_anything() {
    let mut harness = harness();
    let id = harness.submit(10, 300);
    while harness.fake.guesses.is_empty() {
        harness.step();
    }
    harness.fake.cells = harness.scheduler.cells_used() + 1;
    harness.step();
    let asked = harness.fake.guesses.len();
    harness.step();
    assert_eq!(harness.fake.guesses.len(), asked, "after a full cache there are none");
    harness.fake.cells = 2000;
    run_for(&mut harness, CHEAP);
    assert_eq!((harness.ends(id), harness.words(id)), (STOPPED.into(), 300));
}

#[test]
fn side_by_side_they_share_the_passes_of_the_draft_model() {
    let mut harness = harness();
    let prompts: Vec<_> = (0..4).map(|n| harness.prompt(10 + n, 200)).collect();
    let params = Parameters::default;
    let alone: Vec<_> = prompts.iter().map(|it| answer_alone(it.clone(), params())).collect();
    let ids: Vec<_> = prompts
        .into_iter()
        .map(|prompt| harness.submit_prompt(prompt, params(), Priority::Normal).unwrap())
        .collect();
    run_for(&mut harness, Duration::ZERO);
    for (id, alone) in ids.iter().zip(alone) {
        assert_eq!((harness.ends(*id), harness.text(*id)), (STOPPED.into(), alone));
        assert!(drafts_of(&harness, *id).accepted > 0);
    }
}
