//! A person does not wait for batch work.

use std::time::Duration;

use super::super::Output;
use super::harness::{Harness, STOPPED, answer_alone};

use crate::engine_protocol::EngineRequestId;
use crate::{Feed, Parameters, Plan, Priority, SeqId, TokenId};

fn submit_known(
    harness: &mut Harness,
    priority: Priority,
    length: usize,
    answer: usize,
) -> (EngineRequestId, Vec<TokenId>) {
    let prompt = harness.prompt(length, answer);
    let id = harness.submit_prompt(prompt.clone(), Parameters::default(), priority).unwrap();
    (id, prompt)
}

/// Checks that each was answered as if it were alone.
fn all_answered(harness: &Harness, requests: &[(EngineRequestId, Vec<TokenId>)]) {
    for (id, prompt) in requests {
        assert_eq!(harness.ends(*id), STOPPED);
        assert_eq!(harness.text(*id), answer_alone(prompt.clone(), Parameters::default()));
    }
}

#[test]
fn an_interactive_prompt_is_read_at_the_next_step_though_all_sequences_are_busy() {
    for busy in [Priority::Batch, Priority::Normal] {
        let mut harness = Harness::new(1000, 64, 4);
        let mut requests: Vec<_> =
            (0..6).map(|_| submit_known(&mut harness, busy, 10, 40)).collect();
        for _ in 0..5 {
            harness.step();
        }
        let person = submit_known(&mut harness, Priority::Interactive, 10, 5);
        let computed = harness.fake.computed();
        harness.step();
        assert!(harness.outputs.contains(&Output::Started { id: person.0 }));
        assert_eq!(harness.fake.computed() - computed, 3 + 10);
        requests.push(person);
        harness.finish();
        all_answered(&harness, &requests);
        // Nothing was computed twice: each prompt and each answer.
        let all = 6 * (10 + 40) + 10 + 5;
        assert!((all - 12..=all).contains(&harness.fake.computed()));
    }
}

#[test]
fn the_youngest_of_the_lowest_priority_is_paused_first() {
    let mut harness = Harness::new(1000, 64, 3);
    let priorities = [Priority::Batch, Priority::Batch, Priority::Normal];
    let ids = priorities.map(|priority| harness.submit_as(priority, 10, 40));
    harness.step();
    harness.submit_as(Priority::Interactive, 10, 5);
    harness.step();
    let running: Vec<EngineRequestId> = harness.scheduler.running.values().map(|s| s.id).collect();
    assert!(running.contains(&ids[0]) && running.contains(&ids[2]) && !running.contains(&ids[1]));
    harness.finish();
}

#[test]
fn interactive_requests_do_not_pause_each_other() {
    let mut harness = Harness::new(1000, 64, 2);
    let first = [0; 2].map(|_| harness.submit_as(Priority::Interactive, 10, 40));
    harness.step();
    harness.submit_as(Priority::Interactive, 10, 5);
    harness.step();
    let running: Vec<EngineRequestId> = harness.scheduler.running.values().map(|s| s.id).collect();
    assert_eq!(running, first);
    harness.finish();
}

#[test]
fn paused_cells_are_taken_where_the_interactive_prompt_needs_them() {
    let mut harness = Harness::new(200, 64, 2);
    let mut requests: Vec<_> =
        (0..2).map(|_| submit_known(&mut harness, Priority::Batch, 70, 20)).collect();
    for _ in 0..6 {
        harness.step();
    }
    let person = submit_known(&mut harness, Priority::Interactive, 150, 5);
    for _ in 0..3 {
        harness.step();
    }
    assert!(harness.outputs.contains(&Output::Started { id: person.0 }));
    requests.push(person);
    harness.finish();
    all_answered(&harness, &requests);
}

#[test]
fn nobody_is_paused_for_one_that_would_not_fit_all_the_same() {
    let mut harness = Harness::new(200, 64, 3);
    harness.submit_as(Priority::Interactive, 120, 30);
    let batch = harness.submit_as(Priority::Batch, 10, 60);
    for _ in 0..5 {
        harness.step();
    }
    harness.submit_as(Priority::Interactive, 120, 5);
    harness.step();
    assert!(harness.scheduler.running.values().any(|running| running.id == batch));
    harness.finish();
}

#[test]
fn a_batch_job_gets_on_under_a_stream_of_interactive_prompts() {
    let mut harness = Harness::new(1000, 16, 1);
    let (batch, prompt) = submit_known(&mut harness, Priority::Batch, 4, 10);
    harness.step();
    let mut last = harness.submit_as(Priority::Interactive, 4, 1);
    for _ in 0..2000 {
        if harness.ends(batch) == STOPPED {
            all_answered(&harness, &[(batch, prompt)]);
            return;
        }
        if !harness.ends(last).is_empty() {
            last = harness.submit_as(Priority::Interactive, 4, 1);
        }
        last = harness.submit_as(Priority::Interactive, 4, 1).max(last);
        harness.step();
    }
    panic!("it waits forever");
}

#[test]
fn an_interactive_prompt_gets_most_of_a_batch_and_a_batch_prompt_some() {
    let mut harness = Harness::new(2000, 170, 4);
    harness.submit_as(Priority::Batch, 400, 5);
    harness.submit_as(Priority::Interactive, 400, 5);
    let plan = harness.step();
    let shares: Vec<usize> = plan.feeds.iter().map(|feed| feed.tokens.len()).collect();
    let of = |seq| plan.feeds.iter().position(|feed| feed.seq == SeqId(seq)).unwrap();
    // The interactive request was admitted first.
    assert_eq!((shares[of(0)], shares[of(1)]), (160, 10));
    harness.finish();
}

#[test]
fn an_interactive_answer_is_not_held_up_by_long_batch_prompts() {
    let mut harness = Harness::new(2000, 160, 4);
    harness.submit_as(Priority::Interactive, 4, 30);
    harness.step();
    harness.submit_as(Priority::Batch, 400, 5);
    assert_eq!(harness.step().n_tokens(), 1 + 20);
    harness.finish();
}

#[test]
fn a_short_interactive_prompt_does_not_wait_for_many_batch_prompts_beside_it() {
    let mut harness = Harness::new(1000, 64, 4);
    for _ in 0..3 {
        harness.submit_as(Priority::Batch, 100, 5);
    }
    let person = harness.submit_as(Priority::Interactive, 10, 5);
    let tokens = harness.step().n_tokens();
    assert!(harness.outputs.contains(&Output::Started { id: person }));
    assert_eq!(tokens, 10 + 64 / 8);
    harness.finish();
}

#[test]
fn beside_an_interactive_answer_the_others_take_turns_where_all_would_hold_it_up() {
    let mut harness = Harness::new(10_000, 64, 32);
    let others: Vec<EngineRequestId> =
        (0..20).map(|_| harness.submit_as(Priority::Batch, 2, 100)).collect();
    while !harness.answers_under_way(20) {
        harness.step();
    }
    // A token takes 10 ms: ten of them fit into the 0.1 s that others may take.
    let read = Plan { feeds: vec![Feed { sample: false, ..feed(10) }] };
    harness.scheduler.took(&read, Duration::from_millis(100));
    harness.submit_as(Priority::Interactive, 2, 100);
    harness.step();
    let before: Vec<usize> = others.iter().map(|id| harness.words(*id)).collect();
    for _ in 0..4 {
        assert_eq!(harness.step().n_tokens(), 11);
    }
    // In four passes, each had two turns.
    let after: Vec<usize> = others.iter().map(|id| harness.words(*id)).collect();
    assert!(before.iter().zip(&after).all(|(before, after)| after - before == 2), "{after:?}");
}

fn feed(tokens: usize) -> Feed {
    Feed { seq: SeqId(0), start: 0, tokens: vec![TokenId(1); tokens], sample: true, drafts: 0 }
}
