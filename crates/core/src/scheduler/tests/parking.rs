//! Parking of what ended requests leave behind.

use super::harness::{Harness, STOPPED, answer_alone};
use crate::{ModelInfo, Parameters, PrefixCache, Priority, TokenId};

const KINDS: [PrefixCache; 2] = [PrefixCache::Any, PrefixCache::Window(20)];

/// A prompt that is answered with four tokens.
fn prompt(kind: i32, length: usize) -> Vec<TokenId> {
    let mut prompt = vec![TokenId(kind); length];
    prompt[0] = TokenId(4);
    prompt
}

fn and(before: &[TokenId], more: std::ops::Range<i32>) -> Vec<TokenId> {
    before.iter().copied().chain(more.map(TokenId)).collect()
}

/// Submits a prompt, waits for the answer, and returns how many tokens of the prompt were not
/// computed.
fn ask(harness: &mut Harness, prompt: &[TokenId]) -> u32 {
    let params = Parameters::default();
    let id = harness.submit_prompt(prompt.to_vec(), params.clone(), Priority::Normal).unwrap();
    harness.finish();
    assert_eq!(harness.ends(id), STOPPED);
    assert_eq!(harness.text(id), answer_alone(prompt.to_vec(), params));
    harness.cached(id).unwrap()
}

#[test]
fn where_cells_of_others_cost_nothing_they_stay_until_they_are_needed() {
    for prefix_cache in KINDS {
        let info = ModelInfo { n_ctx: 200, n_batch: 64, n_seq_max: 2, ..ModelInfo::default() };
        let info = ModelInfo { n_seq_spare: 8, prefix_cache, n_parked: 100, ..info };
        let mut harness = Harness::of(ModelInfo { own_cells_only: true, ..info });
        for (kind, cells) in [(300, 60), (400, 120), (500, 180)] {
            ask(&mut harness, &prompt(kind, 60));
            assert!(harness.scheduler.cells_used() > cells, "{prefix_cache:?}");
            assert_eq!(harness.parked.len(), 0);
        }
        // The least recently used one makes way and is parked.
        ask(&mut harness, &prompt(600, 60));
        assert_eq!(harness.parked.len(), 1, "{prefix_cache:?}");
        // A window cannot be cut where this prompt ends.
        if prefix_cache == PrefixCache::Any {
            assert_eq!(ask(&mut harness, &prompt(300, 60)), 59);
        }
    }
}

#[test]
fn others_do_not_compute_beside_what_ended_requests_left() {
    for kind in KINDS {
        let mut harness = Harness::small(kind, 100);
        ask(&mut harness, &prompt(300, 40));
        assert_eq!((harness.scheduler.cells_used(), harness.parked.len()), (44, 0));
        harness.submit_prompt(prompt(400, 30), Parameters::default(), Priority::Normal).unwrap();
        harness.step();
        assert_eq!((harness.scheduler.cells_used(), harness.parked.len()), (30, 1), "{kind:?}");
        harness.finish();
    }
}

#[test]
fn what_was_parked_is_not_computed_again() {
    for kind in KINDS {
        let mut harness = Harness::small(kind, 100);
        let first = prompt(300, 40);
        ask(&mut harness, &first);
        ask(&mut harness, &prompt(400, 30));
        assert_eq!(harness.parked.len(), 1);
        // All that was cached for the first prompt, and more: a state that is back in the cache is
        // no longer parked.
        let answered = harness.scheduler.parked.texts().remove(0);
        assert_eq!(answered.len(), 40 + 4);
        assert_eq!(ask(&mut harness, &and(&answered, 500..510)), 44, "{kind:?}");
        // The other prompt's 34 tokens were parked in turn.
        assert_eq!(harness.parked.len(), 1);
    }
}

#[test]
fn the_beginning_of_what_was_parked_is_of_use_by_itself() {
    for (kind, cached) in KINDS.into_iter().zip([40, 0]) {
        let mut harness = Harness::small(kind, 100);
        let first = prompt(300, 40);
        ask(&mut harness, &first);
        ask(&mut harness, &prompt(400, 30));
        assert_eq!(ask(&mut harness, &and(&first, 500..510)), cached, "{kind:?}");
        assert!(harness.parked.len() >= 1);
    }
}

#[test]
fn who_comes_with_others_of_its_kind_brings_it_back_once() {
    let mut harness = Harness::small(PrefixCache::Any, 100);
    let first = prompt(300, 40);
    ask(&mut harness, &first);
    ask(&mut harness, &prompt(400, 30));
    let computed = harness.fake.computed();
    let ids = [500, 600].map(|from| {
        let prompt = and(&first, from..from + 3);
        harness.submit_prompt(prompt, Parameters::default(), Priority::Normal).unwrap()
    });
    harness.finish();
    assert_eq!(ids.map(|id| harness.cached(id)), [Some(40); 2]);
    assert_eq!(harness.fake.computed() - computed, 2 * (3 + 4));
}

#[test]
fn who_was_of_use_longest_ago_goes_first() {
    let mut harness = Harness::small(PrefixCache::Any, 100);
    for kind in [300, 400, 500, 600] {
        ask(&mut harness, &prompt(kind, 36));
    }
    // Two texts of 40 tokens fit, and the last one is in the cache.
    assert_eq!(harness.parked.len(), 2);
    assert_eq!(ask(&mut harness, &prompt(400, 36)), 35);
    // That made 400 the most recent, and 600 took the place of 500.
    assert_eq!(ask(&mut harness, &prompt(500, 36)), 1);
    // All prompts begin with the same token.
    assert_eq!(ask(&mut harness, &prompt(300, 36)), 1);
}

#[test]
fn a_few_tokens_and_few_of_ones_own_are_not_worth_it() {
    let mut harness = Harness::small(PrefixCache::Any, 200);
    ask(&mut harness, &prompt(300, 20));
    ask(&mut harness, &prompt(400, 20));
    assert_eq!(harness.parked.len(), 0);
}

#[test]
fn a_state_that_is_gone_or_refused_is_computed_again() {
    let mut harness = Harness::small(PrefixCache::Any, 100);
    let first = prompt(300, 40);
    ask(&mut harness, &first);
    ask(&mut harness, &prompt(400, 30));
    harness.fake.refuse_restore = true;
    assert_eq!(ask(&mut harness, &and(&first, 500..510)), 0);
    assert_eq!(harness.sequences_lost(), 0);
    harness.fake.refuse_restore = false;
    // Nothing is left of the refused state.
    ask(&mut harness, &prompt(600, 30));
    assert_eq!(ask(&mut harness, &and(&first, 500..510)), 49);
}

#[test]
fn a_session_that_is_not_saved_stays_in_the_cache() {
    let mut harness = Harness::small(PrefixCache::Any, 100);
    let (params, first) = (Parameters::default(), prompt(300, 40));
    harness.submit_turn(Some("a"), first.clone(), params, Priority::Normal).unwrap();
    harness.finish();
    ask(&mut harness, &prompt(400, 30));
    assert_eq!(harness.parked.len(), 0);
    harness.save_all();
    assert_eq!(harness.states.written, 1);
    ask(&mut harness, &prompt(500, 30));
    assert_eq!(harness.parked.len(), 2);
}

#[test]
fn where_nothing_can_be_parked_all_stays_in_the_cache() {
    let mut harness = Harness::small(PrefixCache::Any, 0);
    let first = prompt(300, 40);
    ask(&mut harness, &first);
    ask(&mut harness, &prompt(400, 30));
    assert_eq!(ask(&mut harness, &and(&first, 500..510)), 40);
}
