//! The cache has too few cells for all requests together.

use super::super::Output;
use super::harness::{CUT, End, Harness, STOPPED, answer_alone};
use crate::engine_protocol::EngineRequestId;
use crate::{ErrorCode, Parameters, Priority};

#[test]
fn a_request_waits_while_the_cache_has_no_room_for_its_prompt() {
    let mut harness = Harness::new(100, 32, 4);
    let first = harness.submit(60, 10);
    let second = harness.submit(60, 10);
    harness.step();
    assert_eq!((harness.scheduler.running(), harness.scheduler.waiting()), (1, 1));
    harness.finish();
    assert_eq!((harness.ends(first), harness.ends(second)), (STOPPED.into(), STOPPED.into()));
}

#[test]
fn preemption_keeps_the_answer_identical() {
    let mut harness = Harness::new(60, 16, 3);
    let prompts: Vec<_> = (0..3)
        .map(|_| {
            let prompt = harness.prompt(5, 45);
            let params = Parameters::default();
            let id = harness.submit_prompt(prompt.clone(), params, Priority::Normal).unwrap();
            (id, prompt)
        })
        .collect();
    let mut preempted = false;
    while !harness.scheduler.is_idle() {
        let running = harness.scheduler.running();
        harness.step();
        let ended = harness.outputs.iter().any(|o| matches!(o, Output::Finished { .. }));
        preempted |= !ended && harness.scheduler.running() < running;
    }
    let told = |output: &Output| matches!(output, Output::Prefill { .. });
    assert!(!harness.outputs.iter().any(told), "reading a prompt again is not reported");
    assert!(preempted, "three answers of 45 tokens do not fit 60 cells together");
    for (id, prompt) in prompts {
        assert_eq!(harness.ends(id), STOPPED);
        assert_eq!(harness.text(id), answer_alone(prompt, Parameters::default()));
    }
}

#[test]
fn the_lowest_priority_is_preempted_and_then_the_youngest() {
    let mut harness = Harness::new(64, 16, 3);
    let batch = harness.submit_as(Priority::Batch, 4, 40);
    let old = harness.submit_as(Priority::Normal, 4, 40);
    let young = harness.submit_as(Priority::Normal, 4, 40);
    harness.finish();
    let ends: Vec<EngineRequestId> = harness
        .outputs
        .iter()
        .filter_map(|output| match output {
            Output::Finished { id, .. } => Some(*id),
            _ => None,
        })
        .collect();
    assert_eq!(ends[0], old);
    assert!(ends.contains(&young) && ends.contains(&batch));
}

#[test]
fn preempted_requests_that_keep_every_sequence_do_not_block_each_other() {
    let mut harness = Harness::new(40, 16, 2);
    let ids = [0; 6].map(|_| harness.submit(4, 30));
    harness.finish();
    for id in ids {
        assert_eq!(harness.ends(id), STOPPED);
    }
}

#[test]
fn a_cache_smaller_than_promised_makes_work_wait_and_not_fail() {
    let mut harness = Harness::new(200, 32, 4);
    harness.fake.cells = 70;
    let prompts = [0; 4].map(|_| {
        let prompt = harness.prompt(40, 20);
        let params = Parameters::default();
        (harness.submit_prompt(prompt.clone(), params, Priority::Normal).unwrap(), prompt)
    });
    harness.finish();
    for (id, prompt) in prompts {
        assert_eq!(harness.ends(id), STOPPED);
        assert_eq!(harness.text(id), answer_alone(prompt, Parameters::default()));
    }
}

#[test]
fn one_request_that_outgrows_the_real_cache_ends() {
    let mut harness = Harness::new(200, 32, 4);
    harness.fake.cells = 50;
    let answer = harness.submit(40, 100);
    harness.finish();
    assert_eq!((harness.ends(answer), harness.words(answer)), (CUT.into(), 11));
    let prompt = harness.submit(60, 1);
    harness.finish();
    assert_eq!(harness.ends(prompt), [End::Failed(ErrorCode::ContextExceeded)]);
}

#[test]
fn a_request_is_not_admitted_only_to_be_preempted_soon() {
    // A 64th of the cache is reserved for each answer.
    let mut harness = Harness::new(640, 640, 2);
    harness.submit(300, 100);
    harness.submit(325, 100);
    harness.step();
    assert_eq!(harness.scheduler.running(), 1);
}

#[test]
fn a_preempted_request_goes_on_though_a_new_one_took_the_last_free_sequence() {
    let mut harness = Harness::new(1000, 16, 2);
    let first = harness.submit(4, 50);
    let second = harness.submit(4, 50);
    harness.step();
    harness.scheduler.preempt_least();
    harness.cancel(first);
    let third = harness.submit_as(Priority::Interactive, 4, 50);
    harness.step();
    assert_eq!(harness.scheduler.running(), 2);
    harness.finish();
    assert_eq!((harness.ends(second), harness.ends(third)), (STOPPED.into(), STOPPED.into()));
}

#[test]
fn each_preemption_raises_the_rank() {
    let mut harness = Harness::new(1000, 16, 2);
    let batch = harness.submit_as(Priority::Batch, 4, 50);
    for _ in 0..2 {
        harness.step();
        harness.scheduler.preempt_least();
    }
    harness.submit_as(Priority::Interactive, 4, 50);
    harness.step();
    harness.scheduler.preempt_least();
    let left: Vec<EngineRequestId> =
        harness.scheduler.running.values().map(|running| running.id).collect();
    assert_eq!(left, [batch], "by now it ranks with the interactive ones, and is older");
}

#[test]
fn a_cache_that_was_short_for_a_while_is_used_in_full_again() {
    let mut harness = Harness::new(200, 32, 4);
    harness.fake.cells = 70;
    let first = harness.submit(40, 20);
    for _ in 0..3 {
        harness.submit(40, 20);
    }
    while harness.ends(first).is_empty() {
        harness.step();
    }
    assert!(harness.scheduler.running() < 3, "70 cells are too few for three");
    harness.fake.cells = 200;
    harness.step();
    assert_eq!(harness.scheduler.running(), 3);
}
