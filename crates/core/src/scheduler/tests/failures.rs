//! The backend fails in various ways.

use super::fake::POISON;
use super::harness::{CANCELED, End, Harness, STOPPED, answer_alone};
use crate::{ErrorCode, Parameters, Priority, TokenId};

#[test]
fn a_request_that_the_backend_refuses_fails_alone() {
    let mut harness = Harness::new(1000, 16, 4);
    let before = harness.submit(4, 9);
    harness.step();
    let mut prompt = harness.prompt(40, 5);
    prompt[30] = TokenId(POISON);
    let bad = harness.submit_prompt(prompt, Parameters::default(), Priority::Normal).unwrap();
    let after = harness.submit(40, 9);
    harness.finish();
    assert_eq!(harness.ends(bad), [End::Failed(ErrorCode::Inference)]);
    assert_eq!((harness.ends(before), harness.ends(after)), (STOPPED.into(), STOPPED.into()));
    // Each ran alone only once; then those that were left ran together again.
    let together = harness.fake.passes.iter().filter(|pass| pass.feeds.len() == 2).count();
    assert!(together >= 4, "{together} passes of two");
}

#[test]
fn a_sequence_that_cannot_be_opened_fails_and_is_free_again() {
    let mut harness = Harness::new(1000, 16, 1);
    harness.fake.refuse_open = true;
    let refused = harness.submit(4, 1);
    harness.step();
    assert_eq!(harness.ends(refused), [End::Failed(ErrorCode::Inference)]);
    harness.fake.refuse_open = false;
    let next = harness.submit(4, 1);
    harness.finish();
    assert_eq!(harness.ends(next), STOPPED);
}

#[test]
fn a_broken_backend_fails_every_request_and_those_to_come() {
    let mut harness = Harness::new(1000, 16, 2);
    let running = harness.submit(4, 9);
    let canceled = harness.submit(4, 9);
    let waiting = harness.submit(4, 9);
    harness.step();
    harness.fake.breaks = true;
    let mut step = harness.scheduler.plan();
    let outcome = step.carry_out(&mut harness.fake);
    assert!(harness.cancel(canceled));
    harness.scheduler.apply(step, outcome, &mut harness.outputs);
    for id in [running, waiting] {
        assert_eq!(harness.ends(id), [End::Failed(ErrorCode::Inference)]);
    }
    assert!(harness.scheduler.is_idle());
    let prompt = harness.prompt(4, 1);
    let failure = harness.submit_prompt(prompt, Parameters::default(), Priority::Normal);
    assert_eq!(&failure.unwrap_err(), harness.scheduler.broken().unwrap());
}

#[test]
fn a_preempted_sequence_that_cannot_be_trimmed_fails_alone() {
    let mut harness = Harness::new(1000, 16, 2);
    let stays = harness.submit(4, 9);
    let preempted = harness.submit(4, 9);
    harness.step();
    harness.scheduler.preempt_least();
    harness.fake.refuse_trim = true;
    harness.finish();
    assert_eq!(harness.ends(preempted), [End::Failed(ErrorCode::Inference)]);
    assert_eq!(harness.ends(stays), STOPPED);
    assert_eq!(harness.sequences_lost(), 0);
}

#[test]
fn a_preempted_sequence_that_cannot_be_trimmed_fails_also_while_it_waits() {
    let mut harness = Harness::new(100, 100, 2);
    let stays = harness.submit(10, 70);
    let preempted = harness.submit(10, 70);
    harness.fake.refuse_trim = true;
    harness.finish();
    assert_eq!(harness.ends(preempted), [End::Failed(ErrorCode::Inference)]);
    assert_eq!(harness.ends(stays), STOPPED);
    assert_eq!(harness.sequences_lost(), 0);
}

#[test]
fn a_backend_that_samples_nothing_fails_those_it_owes_a_token() {
    let mut harness = Harness::new(1000, 16, 2);
    let answer = harness.submit(4, 9);
    harness.step();
    harness.fake.mute = true;
    harness.step();
    assert_eq!(harness.ends(answer), [End::Failed(ErrorCode::Internal)]);
    harness.finish();
}

#[test]
fn whose_fault_it_is_is_found_also_in_a_cache_that_is_short() {
    let mut harness = Harness::new(100, 64, 2);
    harness.fake.cells = 25;
    let answer = harness.submit(30, 1);
    let mut prompt = harness.prompt(40, 5);
    prompt[1] = TokenId(POISON);
    let bad = harness.submit_prompt(prompt, Parameters::default(), Priority::Normal).unwrap();
    // Fails together; fails alone for lack of cells; then half of it runs alone.
    for passes in [0, 0, 1] {
        harness.step();
        assert_eq!(harness.fake.passes.len(), passes);
    }
    harness.fake.cells = 100;
    harness.finish();
    assert_eq!(harness.ends(bad), [End::Failed(ErrorCode::Inference)]);
    assert_eq!(harness.ends(answer), STOPPED);
}

#[test]
fn an_interrupted_pass_changes_no_answer_and_lets_the_canceled_leave() {
    let mut harness = Harness::new(1000, 64, 2);
    let prompt = harness.prompt(40, 9);
    let stays = harness.submit_prompt(prompt.clone(), Parameters::default(), Priority::Normal);
    let stays = stays.unwrap();
    let canceled = harness.submit(40, 9);
    harness.fake.interrupts = true;
    let mut step = harness.scheduler.plan();
    let outcome = step.carry_out(&mut harness.fake);
    harness.scheduler.apply(step, outcome, &mut harness.outputs);
    assert!(harness.cancel(canceled));
    harness.fake.interrupts = false;
    harness.finish();
    assert_eq!((harness.ends(stays), harness.ends(canceled)), (STOPPED.into(), CANCELED.into()));
    assert_eq!(harness.text(stays), answer_alone(prompt, Parameters::default()));
}
