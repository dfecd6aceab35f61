//! Drafts are checked, and those that do not come true leave no trace.

use threadrunner_core::{Feed, ModelBackend, Plan, SeqId, TokenId};

use super::{EngineOptions, Sampled, gemma, greedy, smollm, try_with, user, with};

/// Feeds one token and drafts. Returns the tokens that were sampled.
fn feed(
    backend: &mut dyn ModelBackend,
    start: usize,
    token: TokenId,
    drafts: &[TokenId],
) -> Vec<Sampled> {
    let tokens: Vec<TokenId> = std::iter::once(token).chain(drafts.iter().copied()).collect();
    let start = start as u32;
    let feed = Feed { seq: SeqId(0), start, tokens, sample: true, drafts: drafts.len() };
    let mut sampled = Vec::new();
    backend.forward(&Plan { feeds: vec![feed] }, &mut sampled).unwrap();
    sampled
}

/// Reads the prompt and decodes `n` tokens, with the drafts that `drafts` makes from the answer so
/// far. Returns the answer and the number of forward passes that decoded it.
fn decode(
    backend: &mut dyn ModelBackend,
    prompt: &[TokenId],
    n: usize,
    mut drafts: impl FnMut(&[TokenId]) -> Vec<TokenId>,
) -> (Vec<TokenId>, usize) {
    backend.open(SeqId(0), &greedy(), prompt).unwrap();
    let mut tokens = prompt.to_vec();
    let n_batch = backend.info().n_batch as usize;
    let (last, before) = prompt.split_last().unwrap();
    let mut sampled = Vec::new();
    for (piece, chunk) in (0..).zip(before.chunks(n_batch)) {
        let start = (piece * n_batch) as u32;
        let feed = Feed { seq: SeqId(0), start, tokens: chunk.to_vec(), sample: false, drafts: 0 };
        backend.forward(&Plan { feeds: vec![feed] }, &mut sampled).unwrap();
    }
    let mut next = *last;
    let mut passes = 0;
    while tokens.len() < prompt.len() + n {
        let cached = tokens.len() - 1;
        let sampled = feed(backend, cached, next, &drafts(&tokens[prompt.len()..]));
        passes += 1;
        let ended = sampled.last().unwrap().end;
        tokens.extend(sampled.iter().filter(|sampled| !sampled.end).map(|sampled| sampled.token));
        if ended {
            break;
        }
        next = *tokens.last().unwrap();
    }
    backend.close(SeqId(0));
    (tokens.split_off(prompt.len()), passes)
}

#[test]
fn right_drafts_save_passes_and_wrong_ones_change_nothing() {
    with(smollm(), |backend, _| {
        assert_eq!(backend.info().n_draft_max, 15);
        let text = backend.render_chat(&user("Tell me the capital of France."), &[]).unwrap();
        let prompt = backend.tokenize(&text).unwrap();
        let (alone, passes) = decode(backend, &prompt, 32, |_| Vec::new());
        let text = backend.tokenize("The capital of France is Paris.").unwrap();
        assert_eq!((alone.clone(), passes), (text.clone(), text.len() + 1));

        let right = |known: &[TokenId]| text[known.len()..].to_vec();
        let (drafted, passes) = decode(backend, &prompt, 32, right);
        assert_eq!((drafted, passes), (alone.clone(), 1));

        let wrong = vec![TokenId(100), TokenId(200), TokenId(300)];
        let (drafted, passes) = decode(backend, &prompt, 32, |_| wrong.clone());
        assert_eq!((drafted, passes), (alone, text.len() + 1));
    });
}

#[test]
fn in_a_window_that_slides_drafts_can_be_taken_back() {
    let options = EngineOptions { context: Some(2048), ..EngineOptions::default() };
    try_with(gemma(), options, |backend, _| {
        // Longer than the window, and plain enough that rounding changes nothing.
        let prompt = backend.tokenize(&"river, stone, letter, garden, ".repeat(120)).unwrap();
        assert!(prompt.len() > 600, "{}", prompt.len());
        let (alone, _) = decode(backend, &prompt, 24, |_| Vec::new());
        let wrong: Vec<TokenId> = (100..115).map(TokenId).collect();
        let (drafted, passes) = decode(backend, &prompt, 24, |_| wrong.clone());
        assert_eq!((drafted, passes), (alone.clone(), 24));
        let (drafted, passes) = decode(backend, &prompt, 24, |known| {
            alone[known.len()..].iter().copied().take(7).collect()
        });
        assert_eq!((drafted[..24].to_vec(), passes), (alone, 3));
    })
    .unwrap();
}
