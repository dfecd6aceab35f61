//! A common prefix is computed once.

use super::harness::{Harness, STOPPED, answer_alone};
use crate::engine_protocol::EngineRequestId;
use crate::{ModelInfo, Parameters, PrefixCache, Priority, TokenId};

/// A prompt that is answered by `answer` tokens: a prefix common to its `family`, and a tail of its
/// own.
fn prompt(family: i32, prefix: usize, tail: i32, length: usize, answer: i32) -> Vec<TokenId> {
    let prefix = (0..prefix as i32).map(|n| TokenId(if n == 0 { answer } else { family + n % 7 }));
    prefix.chain((0..length as i32).map(|n| TokenId(500 + (tail + n) % 90))).collect()
}

fn submit(harness: &mut Harness, prompt: &[TokenId], priority: Priority) -> EngineRequestId {
    harness.submit_prompt(prompt.to_vec(), Parameters::default(), priority).unwrap()
}

fn window(tokens: u32) -> ModelInfo {
    ModelInfo {
        n_ctx: 2000,
        n_batch: 64,
        n_seq_max: 8,
        n_seq_spare: 8,
        n_seq_cached: 10,
        prefix_cache: PrefixCache::Window(tokens),
        ..ModelInfo::default()
    }
}

/// Submits these together and checks that each is answered as if it were alone.
fn all_answered(harness: &mut Harness, prompts: &[Vec<TokenId>]) -> Vec<EngineRequestId> {
    let ids: Vec<EngineRequestId> =
        prompts.iter().map(|prompt| submit(harness, prompt, Priority::Normal)).collect();
    harness.finish();
    for (id, prompt) in ids.iter().zip(prompts) {
        assert_eq!(harness.ends(*id), STOPPED);
        assert_eq!(harness.text(*id), answer_alone(prompt.clone(), Parameters::default()));
    }
    ids
}

#[test]
fn eight_that_come_together_read_their_prefix_once() {
    for info in [None, Some(window(100))] {
        let mut harness = info.map_or_else(|| Harness::new(2000, 64, 8), Harness::of);
        let prompts: Vec<_> = (0..8).map(|tail| prompt(100, 500, tail, 20, 5)).collect();
        let ids = all_answered(&mut harness, &prompts);
        // The prefix, the tails, and each answer's tokens except the last.
        assert_eq!(harness.fake.computed(), 500 + 8 * (20 + 5));
        let cached: Vec<_> = ids.iter().map(|id| harness.cached(*id).unwrap()).collect();
        assert_eq!(cached, [0, 500, 500, 500, 500, 500, 500, 500]);
    }
}

#[test]
fn one_that_comes_while_its_prefix_is_read_waits_for_the_rest_of_it() {
    let mut harness = Harness::new(2000, 64, 8);
    let first = submit(&mut harness, &prompt(100, 500, 1, 20, 5), Priority::Normal);
    harness.step();
    harness.step();
    let second = submit(&mut harness, &prompt(100, 500, 2, 20, 5), Priority::Normal);
    harness.finish();
    assert_eq!((harness.cached(first), harness.cached(second)), (Some(0), Some(500)));
    assert_eq!(harness.fake.computed(), 500 + 2 * (20 + 5));
}

#[test]
fn one_that_comes_later_begins_with_what_an_ended_one_left() {
    let mut harness = Harness::new(2000, 64, 8);
    all_answered(&mut harness, &[prompt(100, 500, 1, 20, 5)]);
    let before = harness.fake.computed();
    let again = all_answered(&mut harness, &[prompt(100, 500, 2, 20, 5)]);
    assert_eq!(harness.cached(again[0]), Some(500));
    assert_eq!(harness.fake.computed() - before, 20 + 5);
}

#[test]
fn the_same_prompt_again_computes_its_last_token_only() {
    let mut harness = Harness::new(2000, 64, 8);
    let same = prompt(100, 100, 1, 0, 3);
    all_answered(&mut harness, std::slice::from_ref(&same));
    let before = harness.fake.computed();
    let again = all_answered(&mut harness, &[same]);
    assert_eq!(harness.cached(again[0]), Some(99));
    assert_eq!(harness.fake.computed() - before, 1 + 3);
}

#[test]
fn a_conversation_goes_on_from_its_own_answer() {
    let mut harness = Harness::new(2000, 64, 8);
    let first = prompt(100, 200, 1, 0, 5);
    let id = all_answered(&mut harness, std::slice::from_ref(&first))[0];
    let answer = harness.text(id);
    let said = answer.split_whitespace().map(|word| TokenId(word.parse().unwrap()));
    // The five answer tokens, which are cached, and ten more.
    let mut second = first;
    second.extend(said);
    second.extend(prompt(700, 10, 0, 0, 700));
    let id = submit(&mut harness, &second, Priority::Normal);
    harness.finish();
    assert_eq!(harness.cached(id), Some(205));
}

#[test]
fn a_more_urgent_one_that_begins_alike_leads_and_the_first_joins_it() {
    let mut harness = Harness::new(2000, 64, 8);
    let batch = submit(&mut harness, &prompt(100, 500, 1, 20, 5), Priority::Batch);
    harness.step();
    let person = submit(&mut harness, &prompt(100, 500, 2, 20, 5), Priority::Interactive);
    // The rest of the prefix is read in seven more steps, for the interactive request.
    for _ in 0..7 {
        let feeds = harness.step().feeds;
        assert_eq!(feeds.len(), 1, "the other one waits");
    }
    harness.finish();
    assert_eq!((harness.ends(batch), harness.ends(person)), (STOPPED.into(), STOPPED.into()));
    assert_eq!((harness.cached(batch), harness.cached(person)), (Some(436), Some(64)));
    assert_eq!(harness.fake.computed(), 500 + 2 * (20 + 5));
}

#[test]
fn followers_go_on_when_their_leader_is_canceled() {
    let mut harness = Harness::new(2000, 64, 8);
    let prompts: Vec<_> = (0..3).map(|tail| prompt(100, 500, tail, 20, 5)).collect();
    let ids: Vec<EngineRequestId> =
        prompts.iter().map(|prompt| submit(&mut harness, prompt, Priority::Normal)).collect();
    harness.step();
    harness.cancel(ids[0]);
    harness.finish();
    assert_eq!(harness.fake.computed(), 500 + 2 * (20 + 5));
    assert_eq!(harness.text(ids[1]), answer_alone(prompts[1].clone(), Parameters::default()));
}

#[test]
fn a_follower_canceled_while_it_waits_leaves_the_others_alone() {
    let mut harness = Harness::new(2000, 64, 8);
    let ids: Vec<EngineRequestId> = (0..3)
        .map(|tail| submit(&mut harness, &prompt(100, 500, tail, 20, 5), Priority::Normal))
        .collect();
    harness.step();
    assert!(harness.cancel(ids[1]));
    harness.finish();
    assert_eq!((harness.ends(ids[0]), harness.ends(ids[2])), (STOPPED.into(), STOPPED.into()));
    assert_eq!(harness.fake.computed(), 500 + 2 * (20 + 5));
}

#[test]
fn a_backend_that_cannot_copy_computes_everything_and_answers_the_same() {
    let mut harness = Harness::new(2000, 64, 8);
    harness.fake.refuse_copy = true;
    let prompts: Vec<_> = (0..3).map(|tail| prompt(100, 100, tail, 20, 5)).collect();
    let ids = all_answered(&mut harness, &prompts);
    assert_eq!(harness.fake.computed(), 3 * (100 + 20 + 5));
    assert!(ids.iter().all(|id| harness.cached(*id) == Some(0)));
}

#[test]
fn nothing_is_shared_where_nothing_can_be() {
    let info = ModelInfo { prefix_cache: PrefixCache::None, ..window(0) };
    let mut harness = Harness::of(info);
    let prompts: Vec<_> = (0..3).map(|tail| prompt(100, 100, tail, 20, 5)).collect();
    all_answered(&mut harness, &prompts);
    assert_eq!(harness.fake.computed(), 3 * (100 + 20 + 5));
    assert_eq!(harness.scheduler.cells_used(), 0);
}

#[test]
fn a_window_that_slid_is_not_cut_and_one_that_did_not_is() {
    for (length, cached) in [(50, 40), (500, 0)] {
        let mut harness = Harness::of(window(100));
        all_answered(&mut harness, &[prompt(100, length, 1, 20, 5)]);
        // It diverges ten tokens before the tail.
        let mut other = prompt(100, length, 1, 20, 5);
        other[length - 10] = TokenId(99);
        let other = all_answered(&mut harness, &[other])[0];
        assert_eq!(harness.cached(other), Some(cached));
    }
}

#[test]
fn a_prefix_longer_than_the_window_is_read_once_by_those_who_come_together_and_later() {
    let mut harness = Harness::of(window(100));
    let prompts: Vec<_> = (0..30).map(|tail| prompt(100, 500, tail, 20, 5)).collect();
    let ids = all_answered(&mut harness, &prompts);
    assert_eq!(harness.fake.computed(), 500 + 30 * (20 + 5));
    assert_eq!(harness.cached(ids[29]), Some(500));
    let later = all_answered(&mut harness, &[prompt(100, 500, 30, 20, 5)]);
    assert_eq!(harness.cached(later[0]), Some(500));
}

#[test]
fn the_second_to_come_alone_leaves_a_copy_where_it_parts_from_the_first() {
    let mut harness = Harness::of(window(100));
    let cached: Vec<_> = (0..4)
        .map(|tail| {
            let id = all_answered(&mut harness, &[prompt(100, 500, tail, 20, 5)])[0];
            harness.cached(id).unwrap()
        })
        .collect();
    assert_eq!(cached, [0, 0, 500, 500]);
}

#[test]
fn what_was_of_use_least_recently_makes_room_and_a_prefix_outlives_its_tails() {
    let mut harness = Harness::new(1000, 64, 2);
    for tail in 0..40 {
        all_answered(&mut harness, &[prompt(100, 300, tail, 60, 5)]);
        assert!(harness.scheduler.cells_used() <= 500, "half of the cache at most is kept");
    }
    assert_eq!(harness.fake.computed(), 300 + 40 * (60 + 5));
    // A long prompt takes the cells it needs and is answered.
    all_answered(&mut harness, &[prompt(200, 900, 0, 60, 5)]);
    assert!(harness.scheduler.cells_used() <= 1000);
}

#[test]
fn prompts_that_part_after_few_tokens_do_not_wait_for_each_other() {
    let mut harness = Harness::new(2000, 64, 8);
    for tail in 0..4 {
        submit(&mut harness, &prompt(100, 8, tail * 7, 8, 5), Priority::Normal);
    }
    assert_eq!(harness.step().feeds.len(), 4);
    harness.finish();
}
