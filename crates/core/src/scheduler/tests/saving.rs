//! Sessions whose cells outlive the cache.

use super::harness::{CANCELED, Harness, STOPPED, answer_alone};
use crate::engine_protocol::EngineRequestId;
use crate::{ErrorCode, ModelInfo, Parameters, PrefixCache, Priority, TokenId};

const KINDS: [PrefixCache; 3] = [PrefixCache::Any, PrefixCache::Window(20), PrefixCache::None];

fn turn(harness: &mut Harness, session: &str, prompt: &[TokenId]) -> EngineRequestId {
    let params = Parameters::default();
    harness.submit_turn(Some(session), prompt.to_vec(), params, Priority::Normal).unwrap()
}

/// Runs a turn from beginning to end.
fn whole_turn(harness: &mut Harness, session: &str, prompt: &[TokenId]) -> EngineRequestId {
    let id = turn(harness, session, prompt);
    harness.finish();
    assert_eq!(harness.ends(id), STOPPED);
    id
}

/// A text with more tokens appended.
fn and(before: &[TokenId], more: std::ops::Range<i32>) -> Vec<TokenId> {
    before.iter().copied().chain(more.map(TokenId)).collect()
}

fn saved(harness: &Harness, session: &str) -> Vec<TokenId> {
    harness.states.saved[session].0.clone()
}

#[test]
fn a_turn_after_a_restart_computes_only_what_is_new() {
    for kind in KINDS {
        let mut harness = Harness::small(kind, 0);
        let prompt = harness.prompt(30, 10);
        whole_turn(&mut harness, "a", &prompt);
        harness.save_all();
        let known = saved(&harness, "a");
        assert_eq!(known.len(), 30 + 10, "the prompt and the answer");

        let mut harness = harness.restarted();
        let prompt = and(&known, 500..520);
        let id = whole_turn(&mut harness, "a", &prompt);
        let usage = harness.usage(id).unwrap();
        assert_eq!((usage.cached_tokens, usage.restored_tokens), (40, 40), "{kind:?}");
        assert_eq!(harness.fake.computed(), 20);
        assert_eq!(harness.text(id), answer_alone(prompt, Parameters::default()));
    }
}

#[test]
fn a_turn_that_ends_among_drafts_that_came_true_is_saved_as_it_is() {
    for prefix_cache in [PrefixCache::Any, PrefixCache::None] {
        for (stop, repeat_limit) in [(vec!["1000 ".repeat(30)], None), (Vec::new(), Some(32))] {
            let info = ModelInfo { n_ctx: 1000, n_batch: 64, n_seq_max: 4, ..Default::default() };
            let info = ModelInfo { n_seq_spare: 8, prefix_cache, n_draft_max: 15, ..info };
            let mut harness = Harness::of(info);
            harness.fake.words = 1;
            let prompt = harness.prompt(30, 500);
            let params = Parameters { stop, repeat_limit, ..Parameters::default() };
            let priority = Priority::Normal;
            let id = harness.submit_turn(Some("a"), prompt.clone(), params, priority).unwrap();
            harness.finish();
            harness.save_all();
            let said = harness.usage(id).unwrap().completion_tokens as usize;
            assert!(said < 50, "it ended early");
            let saved = saved(&harness, "a");
            assert!(saved.len() >= 30 + said - 1, "{}", saved.len());
            assert_eq!(saved[..30], prompt);
        }
    }
}

#[test]
fn a_conversation_that_took_another_turn_restores_what_is_still_true() {
    for (kind, restored) in KINDS.into_iter().zip([50, 0, 0]) {
        let mut harness = Harness::small(kind, 0);
        let prompt = harness.prompt(50, 10);
        whole_turn(&mut harness, "a", &prompt);
        harness.save_all();
        let mut harness = harness.restarted();
        let other = and(&prompt, 600..640);
        let id = whole_turn(&mut harness, "a", &other);
        assert_eq!(harness.usage(id).unwrap().restored_tokens, restored, "{kind:?}");
        assert_eq!(harness.text(id), answer_alone(other, Parameters::default()));
    }
}

#[test]
fn what_the_cache_still_has_is_not_read_again() {
    let mut harness = Harness::small(PrefixCache::Any, 0);
    let prompt = harness.prompt(30, 10);
    whole_turn(&mut harness, "a", &prompt);
    harness.save_all();
    let id = whole_turn(&mut harness, "a", &and(&prompt, 600..620));
    assert_eq!(harness.cached(id), Some(30));
    assert_eq!(harness.states.read, 0);
}

#[test]
fn a_session_is_saved_once_for_each_time_that_it_changed() {
    let mut harness = Harness::small(PrefixCache::Any, 0);
    let prompt = harness.prompt(30, 10);
    whole_turn(&mut harness, "a", &prompt);
    assert!(harness.scheduler.has_unsaved());
    harness.save_all();
    harness.save_all();
    assert_eq!(harness.states.written, 1);
    // The same turn again.
    whole_turn(&mut harness, "a", &prompt);
    assert!(!harness.scheduler.has_unsaved());
    let longer = and(&saved(&harness, "a"), 600..620);
    whole_turn(&mut harness, "a", &longer);
    harness.save_all();
    assert_eq!((harness.states.written, saved(&harness, "a").len()), (2, 60));
}

#[test]
fn who_has_no_session_is_not_saved() {
    let mut harness = Harness::small(PrefixCache::Any, 0);
    harness.submit(30, 10);
    assert!(!harness.scheduler.has_sessions());
    harness.finish();
    assert!(!harness.scheduler.has_unsaved());
}

#[test]
fn a_canceled_turn_is_saved_as_far_as_it_came() {
    let mut harness = Harness::small(PrefixCache::Any, 0);
    let prompt = harness.prompt(100, 10);
    let id = turn(&mut harness, "a", &prompt);
    harness.step();
    assert!(harness.scheduler.has_sessions());
    harness.cancel(id);
    assert_eq!(harness.ends(id), CANCELED);
    harness.finish();
    harness.save_all();
    assert_eq!(saved(&harness, "a"), prompt[..64]);
}

#[test]
fn a_session_that_is_another_s_beginning_is_saved_without_the_rest() {
    let mut harness = Harness::small(PrefixCache::Any, 0);
    let prompt = harness.prompt(30, 10);
    whole_turn(&mut harness, "a", &prompt);
    harness.save_all();
    // Another request continues from these cells; the first sequence, which held only them, is
    // closed.
    let known = saved(&harness, "a");
    harness.states.saved.clear();
    whole_turn(&mut harness, "a", &prompt);
    let longer = and(&known, 600..630);
    harness.submit_prompt(longer, Parameters::default(), Priority::Normal).unwrap();
    harness.finish();
    harness.save_all();
    assert_eq!(saved(&harness, "a"), known);
}

#[test]
fn a_session_is_saved_before_its_cells_are_taken() {
    let mut harness = Harness::small(PrefixCache::Any, 0);
    let prompt = harness.prompt(60, 10);
    whole_turn(&mut harness, "a", &prompt);
    let others = harness.submit(150, 10);
    harness.finish();
    assert_eq!(harness.ends(others), STOPPED);
    assert_eq!(saved(&harness, "a").len(), 70);
    let id = whole_turn(&mut harness, "a", &and(&prompt, 600..620));
    assert_eq!(harness.usage(id).unwrap().restored_tokens, 60);
}

#[test]
fn who_was_to_join_what_could_not_be_restored_begins_anew_as_well() {
    let mut harness = Harness::new(300, 33, 3);
    let prompt = harness.prompt(60, 10);
    whole_turn(&mut harness, "a", &prompt);
    harness.save_all();
    let mut harness = harness.restarted();
    // It has read a part by itself when it could continue from all of it.
    let params = Parameters::default();
    let reads = harness.submit_prompt(prompt.clone(), params.clone(), Priority::Normal).unwrap();
    harness.step();
    let restores = turn(&mut harness, "a", &prompt);
    harness.states.saved.clear();
    harness.finish();
    for id in [reads, restores] {
        assert_eq!(harness.ends(id), STOPPED);
        assert_eq!(harness.text(id), answer_alone(prompt.clone(), params.clone()));
    }
}

#[test]
fn a_state_that_cannot_be_restored_is_computed_and_saved_anew() {
    for gone in [false, true] {
        let mut harness = Harness::small(PrefixCache::Any, 0);
        let prompt = harness.prompt(30, 10);
        whole_turn(&mut harness, "a", &prompt);
        harness.save_all();
        let mut harness = harness.restarted();
        let longer = and(&prompt, 600..620);
        let id = turn(&mut harness, "a", &longer);
        if gone {
            harness.states.saved.clear();
        } else {
            harness.fake.refuse_restore = true;
        }
        harness.finish();
        assert_eq!(harness.ends(id), STOPPED);
        assert_eq!(harness.text(id), answer_alone(longer.clone(), Parameters::default()));
        assert_eq!(harness.cached(id), Some(0));
        assert_eq!(harness.sequences_lost(), 0);
        harness.save_all();
        assert_eq!(saved(&harness, "a")[..50], longer);
    }
}

#[test]
fn a_preempted_turn_is_restored_again() {
    let mut harness = Harness::small(PrefixCache::Any, 0);
    let prompt = harness.prompt(60, 10);
    whole_turn(&mut harness, "a", &prompt);
    harness.save_all();
    let mut harness = harness.restarted();
    let longer = and(&prompt, 600..620);
    let id = turn(&mut harness, "a", &longer);
    harness.step();
    assert_eq!(harness.states.read, 1);
    let person = harness.submit_as(Priority::Interactive, 190, 5);
    harness.finish();
    assert_eq!((harness.ends(id), harness.ends(person)), (STOPPED.into(), STOPPED.into()));
    assert_eq!(harness.states.read, 2);
    assert_eq!(harness.text(id), answer_alone(longer, Parameters::default()));
}

#[test]
fn a_state_larger_than_may_be_is_not_saved() {
    let mut harness = Harness::small(PrefixCache::Any, 0);
    let prompt = harness.prompt(100, 20);
    whole_turn(&mut harness, "a", &prompt);
    harness.save_all();
    assert!(harness.states.saved.is_empty());
}

#[test]
fn a_long_state_is_not_restored_for_little() {
    let model = ModelInfo { n_ctx: 2000, n_batch: 512, n_seq_max: 1, ..ModelInfo::default() };
    let model = ModelInfo { n_seq_spare: 4, prefix_cache: PrefixCache::Any, ..model };
    let mut harness = Harness::of(model);
    let prompt = harness.prompt(1000, 5);
    let saved: Vec<u8> = prompt.iter().flat_map(|token| token.0.to_le_bytes()).collect();
    harness.states.saved.insert("a".into(), (prompt.clone(), saved));
    whole_turn(&mut harness, "a", &and(&prompt[..30], 600..620));
    assert_eq!(harness.states.read, 0);
    whole_turn(&mut harness, "a", &and(&prompt[..100], 600..620));
    assert_eq!(harness.states.read, 1);
}

#[test]
fn a_state_is_not_restored_where_running_requests_have_the_cells() {
    let mut harness = Harness::small(PrefixCache::Any, 0);
    let prompt = harness.prompt(60, 38);
    whole_turn(&mut harness, "a", &prompt);
    harness.save_all();
    let mut harness = harness.restarted();
    let first = harness.submit(110, 10);
    harness.step();
    harness.step();
    // Its own tokens fit beside the other request's; those of the whole state do not.
    let id = turn(&mut harness, "a", &and(&prompt[..30], 600..601));
    harness.finish();
    assert_eq!((harness.ends(first), harness.ends(id)), (STOPPED.into(), STOPPED.into()));
    assert_eq!(harness.states.read, 0);
}

#[test]
fn a_backend_that_breaks_down_leaves_nothing_to_save() {
    let mut harness = Harness::small(PrefixCache::Any, 0);
    let prompt = harness.prompt(30, 10);
    whole_turn(&mut harness, "a", &prompt);
    let id = harness.submit(5, 5);
    harness.fake.breaks = true;
    let mut step = harness.scheduler.plan();
    let outcome = step.carry_out(&mut harness.fake);
    harness.scheduler.apply(step, outcome, &mut harness.outputs);
    assert_eq!(harness.ends(id), [super::harness::End::Failed(ErrorCode::Inference)]);
    assert!(!harness.scheduler.has_unsaved());
    assert!(harness.scheduler.save_next().is_none());
}
