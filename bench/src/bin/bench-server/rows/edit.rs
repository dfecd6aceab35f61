//! An answer that repeats its prompt.

use threadrunner_bench::text::Text;
use threadrunner_bench::work::{Ask, Runtime, tokens_per_s};

use crate::compare::{Figure, Outcome, Work};
use crate::side::Side;

/// Tokens in the text and in the answer.
const TEXT: usize = 170;
const ANSWER: u32 = 128;

pub(super) struct Edit;

impl Work for Edit {
    fn figures(&self) -> Vec<Figure> {
        vec![Figure::rate("tokens/s")]
    }

    fn measure(&self, side: &Side, seed: u64) -> Outcome {
        let text = Text::new(seed).prose(TEXT);
        let begun = &text[..text.len() / 4];
        let prompt = format!("{text}.\n\nThe same text again:\n\n{begun}");
        let answers: Vec<_> = side.ask(&Ask::new(prompt, ANSWER)).into_iter().collect();
        Outcome::new(1, &answers, vec![tokens_per_s(&answers)])
    }
}
