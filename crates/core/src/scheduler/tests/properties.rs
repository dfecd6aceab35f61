use proptest::prelude::*;

use super::super::Output;
use super::fake::POISON;
use super::harness::{CANCELED, End, Harness, STOPPED, answer_alone, answer_in_words};
use crate::engine_protocol::EngineRequestId;
use crate::{
    Draft, ErrorCode, FinishReason, ModelInfo, Parameters, PrefixCache, Priority, TokenId,
};

#[derive(Debug, Clone)]
enum Act {
    Submit {
        priority: Priority,
        length: usize,
        answer: usize,
        /// Prompts of one family begin alike.
        family: i32,
        /// How many tokens it shares with its family.
        shared: usize,
        max_tokens: Option<u32>,
        poisoned: bool,
        /// The session that it is a turn of, and whether it continues from what was saved.
        session: Option<(u8, bool)>,
    },
    Cancel {
        which: usize,
    },
    Steps(usize),
    /// Reduces the backend's cells to this percentage of what it promised.
    Squeeze(usize),
    /// From now on, the backend refuses to share cells, or shares them again.
    RefuseCopies(bool),
    /// From now on, the backend refuses to restore, or restores again.
    RefuseRestores(bool),
    /// Saves this many sessions.
    Save(usize),
    /// Removes a session's state.
    Lose(u8),
}

/// A prompt with its first tokens replaced by those of its family.
fn familial(mut prompt: Vec<TokenId>, family: i32, shared: usize) -> Vec<TokenId> {
    for (n, token) in prompt.iter_mut().enumerate().skip(1).take(shared) {
        *token = TokenId(300 + family * 50 + n as i32 % 40);
    }
    prompt
}

/// Models of every kind, with few cells.
fn models(n_ctx: std::ops::Range<u32>) -> impl Strategy<Value = ModelInfo> {
    let prefix_cache = prop::sample::select(vec![
        PrefixCache::Any,
        PrefixCache::Any,
        PrefixCache::Window(20),
        PrefixCache::None,
    ]);
    let spare = prop::sample::select(vec![0u32, 1, 8]);
    let drafts = prop::sample::select(vec![0u32, 1, 15]);
    let parks = prop::sample::select(vec![0u32, 1, 2]);
    let draft_model = prop::sample::select(vec![None, Some("small".to_owned())]);
    (n_ctx, 1u32..40, 1u32..6, spare, 0u32..3, prefix_cache, (drafts, draft_model, parks)).prop_map(
        |(n_ctx, n_batch, n_seq_max, n_seq_spare, cached, prefix_cache, rest)| {
            let (drafts, draft_model, parks) = rest;
            ModelInfo {
                n_ctx,
                n_batch,
                n_seq_max,
                n_seq_spare,
                n_seq_cached: if cached == 0 { 0 } else { n_seq_max + cached - 1 },
                prefix_cache,
                n_parked: n_ctx * parks / 2,
                n_draft_max: drafts,
                draft_model,
                ..ModelInfo::default()
            }
        },
    )
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let priority =
        prop::sample::select(vec![Priority::Batch, Priority::Normal, Priority::Interactive]);
    let length = prop_oneof![1usize..4, 1usize..60];
    let poisoned = prop::bool::weighted(0.1);
    let family = (0..3, prop_oneof![Just(0usize), 1usize..60]);
    let max_tokens = prop::option::of(1u32..30);
    let session = prop::option::of((0..3u8, any::<bool>()));
    let submit = (priority, length, 0usize..40, family, max_tokens, poisoned, session);
    let submit = submit.prop_map(
        |(priority, length, answer, (family, shared), max_tokens, poisoned, session)| Act::Submit {
            priority,
            length,
            answer,
            family,
            shared,
            max_tokens,
            poisoned,
            session,
        },
    );
    let act = prop_oneof![
        6 => submit,
        1 => any::<usize>().prop_map(|which| Act::Cancel { which }),
        4 => (1usize..8).prop_map(Act::Steps),
        1 => (50usize..=100).prop_map(Act::Squeeze),
        1 => any::<bool>().prop_map(Act::RefuseCopies),
        1 => prop::bool::weighted(0.3).prop_map(Act::RefuseRestores),
        2 => (1usize..4).prop_map(Act::Save),
        1 => (0..3u8).prop_map(Act::Lose),
    ];
    prop::collection::vec(act, 1..60)
}

struct Submitted {
    id: EngineRequestId,
    prompt: Vec<TokenId>,
    params: Parameters,
}

proptest! {
    // The fake backend checks in each forward pass that cells stay within n_ctx, sequences within
    // n_seq_max, and tokens within n_batch; that positions are contiguous; and that nothing is
    // shared that its kind of cache no longer has.
    #[test]
    fn every_request_ends_exactly_once_and_as_if_it_were_alone(
        info in models(70..200),
        acts in acts(),
        // One word loops; with three, some drafts are accepted.
        words in prop::sample::select(vec![1u64, 3, 1000]),
        draft_wrong in 0usize..5,
        draft_says in prop::sample::select(vec![
            None, None, None, Some(Draft::Reading), Some(Draft::Tokens(vec![TokenId(1); 20])),
        ]),
    ) {
        let n_ctx = info.n_ctx as usize;
        let mut harness = Harness::of(info);
        (harness.fake.draft_wrong, harness.fake.draft_says) = (draft_wrong, draft_says);
        harness.fake.words = words;
        let mut accepted = Vec::new();
        for act in acts {
            match act {
                Act::Submit {
                    priority, length, answer, family, shared, max_tokens, poisoned, session,
                } => {
                    let mut prompt = familial(harness.prompt(length, answer), family, shared);
                    let name = session.map(|(name, _)| name.to_string());
                    if let Some((_, true)) = session
                        && let Some((saved, _)) = harness.states.saved.get(name.as_ref().unwrap())
                        && saved.len() + prompt.len() < 60
                    {
                        prompt.splice(0..0, saved.iter().copied());
                    }
                    if poisoned {
                        *prompt.last_mut().unwrap() = TokenId(POISON);
                    }
                    let params = Parameters { max_tokens, ..Parameters::default() };
                    let id = harness.submit_turn(
                        name.as_deref(), prompt.clone(), params.clone(), priority,
                    );
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
                Act::Squeeze(percent) => harness.fake.cells = n_ctx * percent / 100,
                Act::RefuseCopies(refuse) => harness.fake.refuse_copy = refuse,
                Act::RefuseRestores(refuse) => harness.fake.refuse_restore = refuse,
                Act::Save(sessions) => (0..sessions).for_each(|_| harness.save_one()),
                Act::Lose(name) => drop(harness.states.saved.remove(&name.to_string())),
            }
        }
        harness.fake.cells = n_ctx;
        harness.finish();

        for Submitted { id, prompt, params } in accepted {
            let ends = harness.ends(id);
            prop_assert_eq!(ends.len(), 1, "{} ended so: {:?}", id, ends);
            if prompt.contains(&TokenId(POISON)) {
                prop_assert!(ends == CANCELED || matches!(ends[0], End::Failed(_)));
                continue;
            }
            let alone = answer_in_words(prompt, params, words);
            let text = harness.text(id);
            match &ends[0] {
                End::Finished(FinishReason::Stop) => prop_assert_eq!(text, alone),
                End::Finished(_) => prop_assert!(alone.starts_with(&text)),
                // Only if the backend really had no room even for one request.
                End::Failed(code) => prop_assert_eq!(*code, ErrorCode::ContextExceeded),
            }
        }
    }

    #[test]
    fn an_honest_cache_fails_nobody_and_cuts_nobody_short(
        info in models(101..200),
        requests in prop::collection::vec(
            (1usize..60, 0usize..40, 0..3, 0usize..60, 0..3, 0usize..5), 1..20,
        ),
    ) {
        let mut harness = Harness::of(info);
        let mut submitted = Vec::new();
        for (length, answer, family, shared, priority, steps) in requests {
            let priorities = [Priority::Batch, Priority::Normal, Priority::Interactive];
            let prompt = familial(harness.prompt(length, answer), family, shared);
            let params = Parameters::default();
            let priority = priorities[priority as usize];
            let id = harness.submit_prompt(prompt.clone(), params, priority).unwrap();
            submitted.push((id, prompt));
            (0..steps).for_each(|_| { harness.step(); });
        }
        harness.finish();
        for (id, prompt) in submitted {
            prop_assert_eq!(harness.ends(id), [End::Finished(FinishReason::Stop)]);
            prop_assert_eq!(harness.text(id), answer_alone(prompt, Parameters::default()));
        }
        prop_assert_eq!(harness.sequences_lost(), 0);
    }

    #[test]
    fn an_interactive_request_starts_at_the_next_step_whatever_else_is_to_be_done(
        n_seq_max in 1u32..6,
        others in prop::collection::vec((1usize..60, 1usize..40, any::<bool>(), 0usize..4), 1..20),
    ) {
        // A cache and a batch with room for all prompts.
        let mut harness = Harness::new(4000, 4000, n_seq_max);
        for (length, answer, batch, steps) in others {
            let priority = if batch { Priority::Batch } else { Priority::Normal };
            harness.submit_as(priority, length, answer);
            (0..steps).for_each(|_| { harness.step(); });
        }
        let person = harness.submit_as(Priority::Interactive, 10, 5);
        harness.step();
        let started = harness.outputs.contains(&Output::Started { id: person });
        prop_assert!(started);
        harness.finish();
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
            // A request is answered if its prompt and answer, except the last token, fit alone.
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
