use proptest::prelude::*;

use super::fake::{CANCELED, End, Harness, POISON, STOPPED, answer_alone};
use crate::{ErrorCode, FinishReason, Parameters, Priority, TokenId};

#[derive(Debug, Clone)]
enum Act {
    Submit {
        priority: Priority,
        length: usize,
        answer: usize,
        max_tokens: Option<u32>,
        poisoned: bool,
    },
    Cancel {
        which: usize,
    },
    Steps(usize),
    /// The backend has this share of the cells that it promised, in percent.
    Squeeze(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let priority =
        prop::sample::select(vec![Priority::Batch, Priority::Normal, Priority::Interactive]);
    let length = prop_oneof![1usize..4, 1usize..60];
    let poisoned = prop::bool::weighted(0.1);
    let submit = (priority, length, 0usize..40, prop::option::of(1u32..30), poisoned).prop_map(
        |(priority, length, answer, max_tokens, poisoned)| Act::Submit {
            priority,
            length,
            answer,
            max_tokens,
            poisoned,
        },
    );
    let act = prop_oneof![
        6 => submit,
        1 => any::<usize>().prop_map(|which| Act::Cancel { which }),
        4 => (1usize..8).prop_map(Act::Steps),
        1 => (50usize..=100).prop_map(Act::Squeeze),
    ];
    prop::collection::vec(act, 1..60)
}

struct Submitted {
    id: u64,
    prompt: Vec<TokenId>,
    params: Parameters,
}

proptest! {
    // The fake backend checks with each forward pass that cells stay within n_ctx, sequences
    // within n_seq_max, tokens within n_batch, and that positions join up.
    #[test]
    fn every_request_ends_exactly_once_and_as_if_it_were_alone(
        n_ctx in 70u32..200,
        n_batch in 1u32..40,
        n_seq_max in 1u32..6,
        acts in acts(),
    ) {
        let mut harness = Harness::new(n_ctx, n_batch, n_seq_max);
        let mut accepted = Vec::new();
        for act in acts {
            match act {
                Act::Submit { priority, length, answer, max_tokens, poisoned } => {
                    let mut prompt = harness.prompt(length, answer);
                    if poisoned {
                        prompt[length - 1] = TokenId(POISON);
                    }
                    let params = Parameters { max_tokens, ..Parameters::default() };
                    let id = harness.submit_prompt(prompt.clone(), params.clone(), priority);
                    accepted.push(Submitted { id: id.unwrap(), prompt, params });
                }
                Act::Cancel { which } => {
                    if !accepted.is_empty() {
                        let id = accepted[which % accepted.len()].id;
                        let had_ended = !harness.ends(id).is_empty();
                        prop_assert_eq!(harness.cancel(id), !had_ended);
                    }
                }
                Act::Steps(steps) => (0..steps).for_each(|_| { harness.step(); }),
                Act::Squeeze(percent) => harness.fake.cells = n_ctx as usize * percent / 100,
            }
        }
        harness.fake.cells = n_ctx as usize;
        harness.finish();

        for Submitted { id, prompt, params } in accepted {
            let ends = harness.ends(id);
            prop_assert_eq!(ends.len(), 1, "{} ended so: {:?}", id, ends);
            if prompt.contains(&TokenId(POISON)) {
                prop_assert!(ends == CANCELED || matches!(ends[0], End::Failed(_)));
                continue;
            }
            let alone = answer_alone(prompt, params);
            let text = harness.text(id);
            match &ends[0] {
                End::Finished(FinishReason::Stop) => prop_assert_eq!(text, alone),
                End::Finished(_) => prop_assert!(alone.starts_with(&text)),
                // Only where the backend really had no room even for one.
                End::Failed(code) => prop_assert_eq!(*code, ErrorCode::ContextExceeded),
            }
        }
    }

    #[test]
    fn an_honest_cache_fails_nobody_and_cuts_nobody_short(
        n_ctx in 101u32..200,
        n_batch in 1u32..40,
        n_seq_max in 1u32..6,
        requests in prop::collection::vec((1usize..60, 0usize..40), 1..20),
    ) {
        let mut harness = Harness::new(n_ctx, n_batch, n_seq_max);
        let ids: Vec<u64> =
            requests.iter().map(|&(length, answer)| harness.submit(length, answer)).collect();
        harness.finish();
        for (id, (_, answer)) in ids.into_iter().zip(requests) {
            prop_assert_eq!(harness.ends(id), [End::Finished(FinishReason::Stop)]);
            prop_assert_eq!(harness.text(id).split_whitespace().count(), answer);
        }
    }

    #[test]
    fn a_cache_that_stays_short_ends_nobody_twice_and_holds_nobody_for_ever(
        cells in 10usize..100,
        n_batch in 1u32..40,
        n_seq_max in 1u32..6,
        requests in prop::collection::vec((1usize..60, 0usize..40), 1..20),
    ) {
        let mut harness = Harness::new(100, n_batch, n_seq_max);
        harness.fake.cells = cells;
        let mut submitted = Vec::new();
        for (length, answer) in requests {
            let prompt = harness.prompt(length, answer);
            let params = Parameters::default();
            let id = harness.submit_prompt(prompt.clone(), params, Priority::Normal).unwrap();
            submitted.push((id, prompt, answer));
        }
        harness.finish();
        for (id, prompt, answer) in submitted {
            // A prompt and its answer, but for the last token, that fit alone are answered.
            let fits = prompt.len() + answer <= cells;
            let ends = harness.ends(id);
            prop_assert_eq!(ends.len(), 1, "{} ended so: {:?}", id, ends);
            if fits {
                prop_assert_eq!(&ends[0], &STOPPED[0]);
                prop_assert_eq!(harness.text(id), answer_alone(prompt, Parameters::default()));
            }
        }
    }
}
