//! Forward passes are the same whatever else runs.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::harness::{Harness, STOPPED, answer_alone};
use crate::{Feed, ModelInfo, Parameters, Plan, Priority, TokenId};

fn model(n_batch: u32) -> ModelInfo {
    ModelInfo {
        n_ctx: 200,
        n_batch,
        n_seq_max: 1,
        n_seq_spare: 8,
        n_seq_cached: 1,
        deterministic: true,
        ..ModelInfo::default()
    }
}

/// Where pieces began, and their tokens.
fn pieces(passes: &[Plan]) -> BTreeSet<(u32, Vec<TokenId>)> {
    let piece = |feed: &Feed| (feed.start, feed.tokens.clone());
    passes.iter().flat_map(|plan| &plan.feeds).map(piece).collect()
}

proptest! {
    // The fake backend checks that no other sequence has cells in a forward pass.
    #[test]
    fn what_is_computed_is_computed_in_the_same_pieces(
        n_batch in 1u32..40,
        requests in prop::collection::vec((1usize..60, 0usize..30, 0usize..3, 0usize..9), 1..12),
    ) {
        let priorities = [Priority::Batch, Priority::Normal, Priority::Interactive];
        let mut harness = Harness::of(model(n_batch));
        let mut submitted = Vec::new();
        for (length, answer, priority, steps) in requests {
            let prompt = harness.prompt(length, answer);
            let params = Parameters::default();
            let id = harness.submit_prompt(prompt.clone(), params, priorities[priority]).unwrap();
            submitted.push((id, prompt));
            (0..steps).for_each(|_| { harness.step(); });
        }
        harness.finish();
        let mut alone = BTreeSet::new();
        for (id, prompt) in submitted {
            prop_assert_eq!(harness.ends(id), STOPPED);
            prop_assert_eq!(harness.text(id), answer_alone(prompt.clone(), Parameters::default()));
            let mut one = Harness::of(model(n_batch));
            one.submit_prompt(prompt, Parameters::default(), Priority::Normal).unwrap();
            one.finish();
            alone.extend(pieces(&one.fake.passes));
        }
        let together = pieces(&harness.fake.passes);
        prop_assert!(together.is_subset(&alone), "{:?}", together.difference(&alone));
    }
}

#[test]
fn what_an_interactive_request_took_from_another_is_computed_again_token_by_token() {
    let mut harness = Harness::of(model(16));
    let batch = harness.submit_as(Priority::Batch, 20, 10);
    while harness.words(batch) < 5 {
        harness.step();
    }
    let before = harness.fake.passes.clone();
    let person = harness.submit_as(Priority::Interactive, 4, 2);
    while harness.ends(person).is_empty() {
        harness.step();
    }
    let since = harness.fake.passes.len();
    harness.finish();
    let shape = |passes: &[Plan]| -> Vec<(u32, usize)> {
        passes.iter().map(|plan| (plan.feeds[0].start, plan.feeds[0].tokens.len())).collect()
    };
    assert_eq!(shape(&before), [(0, 16), (16, 4), (20, 1), (21, 1), (22, 1), (23, 1)]);
    assert_eq!(shape(&harness.fake.passes[since..since + 6]), shape(&before));
    assert_eq!(harness.ends(batch), STOPPED);
}
