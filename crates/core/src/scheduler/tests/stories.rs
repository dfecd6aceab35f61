use super::super::Output;
use super::harness::{CANCELED, CUT, Harness, STOPPED, answer_alone};
use crate::engine_protocol::EngineRequestId;
use crate::{ErrorCode, Parameters, Plan, Priority, SeqId, TokenId};

/// How many tokens each sequence is fed, in the order of the sequences.
fn shares(plan: &Plan) -> Vec<usize> {
    let mut shares: Vec<(SeqId, usize)> =
        plan.feeds.iter().map(|feed| (feed.seq, feed.tokens.len())).collect();
    shares.sort();
    shares.into_iter().map(|(_, n)| n).collect()
}

#[test]
fn a_request_joins_a_batch_that_runs_and_leaves_it_when_done() {
    let mut harness = Harness::new(1000, 16, 4);
    let long = harness.submit(4, 20);
    harness.step();
    let short = harness.submit(4, 2);
    assert_eq!(shares(&harness.step()), [1, 4], "the new prompt is read beside the old answer");
    assert_eq!(shares(&harness.step()), [1, 1]);
    assert_eq!(shares(&harness.step()), [1, 1]);
    assert_eq!(harness.ends(short), STOPPED);
    assert_eq!(shares(&harness.step()), [1]);
    harness.finish();
    assert_eq!(harness.ends(long), STOPPED);
}

#[test]
fn prompts_are_read_one_after_the_other_in_what_decoding_leaves_the_shortest_first() {
    let mut harness = Harness::new(1000, 16, 8);
    harness.submit(1, 50);
    harness.step();
    let lengths = [40, 3, 20];
    let ids = lengths.map(|length| harness.submit(length, 1));
    assert_eq!(shares(&harness.step()), [1, 3, 12]);
    // The long prompt gets what the others leave.
    assert_eq!(shares(&harness.step()), [1, 6, 1, 8]);
    harness.finish();
    let [long, shortest, short] = ids;
    assert_eq!(order_of_starts(&harness)[1..], [shortest, short, long]);
}

#[test]
fn a_long_prompt_is_not_passed_by_for_ever() {
    let mut harness = Harness::new(10_000, 16, 4);
    let long = harness.submit(200, 1);
    let mut others = 0;
    while harness.ends(long).is_empty() {
        // Another short prompt comes before the last one is read.
        harness.submit(16, 1);
        harness.step();
        others += 1;
    }
    // Sixteen tokens of others move it forward by four: (200 - 16) / 4, plus 200 / 16 for its own.
    assert!((40..70).contains(&others), "{others} went before it");
}

#[test]
fn what_many_wait_for_is_read_as_if_it_were_as_short_as_theirs() {
    let mut harness = Harness::new(10_000, 64, 8);
    let alike = |length: usize| [vec![TokenId(1)], vec![TokenId(7); length]].concat();
    let params = Parameters { max_tokens: Some(1), ..Parameters::default() };
    let submit = |length: usize, harness: &mut Harness| {
        let prompt = alike(length);
        harness.submit_prompt(prompt, params.clone(), Priority::Normal).unwrap()
    };
    let leader = submit(1000, &mut harness);
    let follower = submit(100, &mut harness);
    let other = harness.submit(300, 1);
    harness.finish();
    assert_eq!(order_of_starts(&harness), [follower, other, leader]);
}

#[test]
fn a_short_prompt_is_read_at_once_beside_long_ones() {
    let mut harness = Harness::new(10_000, 16, 8);
    for _ in 0..3 {
        harness.submit(1000, 1);
    }
    harness.step();
    let short = harness.submit(4, 1);
    harness.step();
    assert!(harness.outputs.contains(&Output::Started { id: short }));
}

#[test]
fn interactive_requests_go_before_normal_ones_before_batch_ones() {
    let mut harness = Harness::new(1000, 16, 1);
    let running = harness.submit(1, 1);
    harness.step();
    let batch = harness.submit_as(Priority::Batch, 1, 1);
    let normal = harness.submit_as(Priority::Normal, 1, 1);
    let interactive = harness.submit_as(Priority::Interactive, 1, 1);
    harness.finish();
    assert_eq!(order_of_starts(&harness), [running, interactive, normal, batch]);
}

#[test]
fn batch_work_gets_its_turn_however_much_interactive_work_comes() {
    let mut harness = Harness::new(1000, 16, 1);
    let batch = harness.submit_as(Priority::Batch, 1, 1);
    let mut interactive = harness.submit_as(Priority::Interactive, 1, 1);
    for _ in 0..100 {
        if harness.ends(batch) == STOPPED {
            return;
        }
        // One is always waiting: the next arrives before the last one ends.
        interactive = harness.submit_as(Priority::Interactive, 1, 1);
        harness.step();
        harness.step();
    }
    panic!("{interactive} interactive requests went before");
}

#[test]
fn a_thousand_waiting_batch_jobs_do_not_hold_up_a_person() {
    let mut harness = Harness::new(1000, 16, 2);
    for _ in 0..1000 {
        harness.submit_as(Priority::Batch, 1, 1);
    }
    harness.step();
    let person = harness.submit_as(Priority::Interactive, 1, 1);
    while harness.ends(person).is_empty() {
        harness.step();
    }
    assert!(order_of_starts(&harness).len() <= 4);
}

fn order_of_starts(harness: &Harness) -> Vec<EngineRequestId> {
    let started = |output: &Output| match output {
        Output::Started { id } => Some(*id),
        _ => None,
    };
    harness.outputs.iter().filter_map(started).collect()
}

#[test]
fn cancel_during_prefill_frees_the_slot() {
    let mut harness = Harness::new(1000, 16, 1);
    let long = harness.submit(500, 5);
    harness.step();
    let next = harness.submit(4, 1);
    assert!(harness.cancel(long));
    assert_eq!(harness.ends(long), CANCELED);
    harness.step();
    assert!(harness.outputs.contains(&Output::Started { id: next }));
    harness.finish();
    assert_eq!(harness.ends(long), CANCELED);
}

#[test]
fn cancel_reaches_a_waiting_and_a_decoding_request_and_none_that_ended() {
    let mut harness = Harness::new(1000, 16, 1);
    let decoding = harness.submit(4, 50);
    let waiting = harness.submit(4, 5);
    harness.step();
    assert!(harness.cancel(waiting));
    assert!(harness.cancel(decoding));
    assert!(!harness.cancel(decoding));
    harness.finish();
    assert_eq!(harness.ends(waiting), CANCELED);
    assert_eq!(harness.ends(decoding), CANCELED);
}

#[test]
fn a_sequence_canceled_between_plan_and_apply_leaves_no_trace() {
    let mut harness = Harness::new(1000, 16, 1);
    let canceled = harness.submit(4, 5);
    let mut step = harness.scheduler.plan();
    let outcome = step.carry_out(&mut harness.fake);
    assert!(harness.cancel(canceled));
    harness.scheduler.apply(step, outcome, &mut harness.outputs);
    let next = harness.submit(4, 5);
    harness.finish();
    assert_eq!((harness.ends(canceled), harness.text(canceled)), (CANCELED.into(), "".into()));
    assert_eq!(harness.ends(next), STOPPED);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_both_numbers() {
    let mut harness = Harness::new(100, 16, 1);
    let prompt = harness.prompt(100, 1);
    let failure =
        harness.submit_prompt(prompt, Parameters::default(), Priority::Normal).unwrap_err();
    assert_eq!(failure.code, ErrorCode::ContextExceeded);
    assert!(failure.message.contains("100 tokens long"), "{failure}");
    assert!(failure.message.contains("holds 100 tokens"), "{failure}");
    assert!(harness.scheduler.is_idle());
}

#[test]
fn an_empty_prompt_is_refused() {
    let mut harness = Harness::new(100, 16, 1);
    let failure =
        harness.submit_prompt(Vec::new(), Parameters::default(), Priority::Normal).unwrap_err();
    assert_eq!(failure.code, ErrorCode::EmptyPrompt);
}

#[test]
fn an_answer_ends_with_length_at_max_tokens_and_at_the_contexts_end() {
    let mut harness = Harness::new(100, 16, 2);
    let prompt = harness.prompt(4, 50);
    let three = Parameters { max_tokens: Some(3), ..Parameters::default() };
    let limited = harness.submit_prompt(prompt, three, Priority::Normal).unwrap();
    harness.finish();
    let full = harness.submit(90, 50);
    harness.finish();
    assert_eq!((harness.ends(limited), harness.words(limited)), (CUT.into(), 3));
    assert_eq!((harness.ends(full), harness.words(full)), (CUT.into(), 10));
}

#[test]
fn a_stop_text_ends_the_answer_before_it() {
    let mut harness = Harness::new(1000, 16, 1);
    let prompt = harness.prompt(4, 50);
    let whole = answer_alone(prompt.clone(), Parameters::default());
    let stop = whole.split_inclusive(' ').nth(5).unwrap().to_owned();
    let params = Parameters { stop: vec![stop.clone()], ..Parameters::default() };
    let id = harness.submit_prompt(prompt, params, Priority::Normal).unwrap();
    harness.finish();
    assert_eq!(harness.ends(id), STOPPED);
    assert_eq!(harness.text(id), whole[..whole.find(&stop).unwrap()]);
}

#[test]
fn progress_is_told_of_prompts_that_take_more_than_one_pass() {
    let mut harness = Harness::new(1000, 16, 2);
    let long = harness.submit(40, 1);
    harness.finish();
    harness.submit(16, 1);
    harness.finish();
    let told = harness.outputs.iter().filter(|output| matches!(output, Output::Prefill { .. }));
    let progress = |done| Output::Prefill { id: long, done, total: 40 };
    assert!(told.eq([&progress(16), &progress(32)]));
}

#[test]
fn usage_counts_prompt_and_answer() {
    let mut harness = Harness::new(1000, 16, 2);
    harness.submit(40, 7);
    harness.finish();
    let Some(Output::Finished { usage, .. }) = harness.outputs.last() else { panic!() };
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (40, 7));
}

#[test]
fn text_held_back_for_a_stop_that_does_not_come_is_told_at_the_end() {
    let mut harness = Harness::new(1000, 16, 1);
    let prompt = harness.prompt(4, 5);
    let params = Parameters { stop: vec![" never".into()], ..Parameters::default() };
    let id = harness.submit_prompt(prompt.clone(), params, Priority::Normal).unwrap();
    harness.finish();
    assert_eq!(harness.text(id), answer_alone(prompt, Parameters::default()));
}

#[test]
fn no_more_run_at_once_than_a_batch_has_tokens() {
    let mut harness = Harness::new(1000, 2, 8);
    for _ in 0..4 {
        harness.submit(1, 5);
    }
    assert_eq!(shares(&harness.step()), [1, 1]);
    harness.finish();
}
