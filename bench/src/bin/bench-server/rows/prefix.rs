//! Questions that begin alike.

use threadrunner_bench::text::Text;
use threadrunner_bench::work::{Ask, in_turn, seconds};

use crate::compare::{Figure, Outcome, Work};
use crate::side::Side;

/// Several questions with one prefix.
pub(super) struct Prefix {
    pub(super) requests: usize,
    /// Tokens in the prefix, in each question and in each answer.
    pub(super) prefix: usize,
    pub(super) question: usize,
    pub(super) answer: u32,
    pub(super) at_a_time: usize,
}

impl Work for Prefix {
    fn figures(&self) -> Vec<Figure> {
        vec![Figure::rate("requests/s")]
    }

    fn measure(&self, side: &Side, seed: u64) -> Outcome {
        let prefix = Text::new(seed).prose(self.prefix);
        let ask = |number: usize| {
            let question = Text::new(seed + 1 + number as u64).prose(self.question);
            Ask::new(format!("{prefix}.\n\n{question}"), self.answer)
        };
        let asks: Vec<_> = (0..self.requests).map(ask).collect();
        let answers = in_turn(side, &asks, self.at_a_time);
        let rate = answers.len() as f64 / seconds(&answers);
        Outcome::new(asks.len(), &answers, vec![rate])
    }
}
