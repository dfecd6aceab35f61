//! Clients that ask at the same time, and one that asks alone.

use threadrunner_bench::text::Text;
use threadrunner_bench::work::{Answered, Ask, Runtime, at_once, tokens_per_s};
use threadrunner_bench::{Series, as_ms};

use crate::compare::{Figure, Outcome, Work};
use crate::side::Side;

/// Several clients with a request each.
pub(super) struct Clients {
    pub(super) clients: usize,
    /// Tokens in each prompt and answer.
    pub(super) prompt: usize,
    pub(super) answer: u32,
}

impl Work for Clients {
    fn figures(&self) -> Vec<Figure> {
        vec![Figure::rate("tokens/s"), Figure::time("first token, median, ms")]
    }

    fn measure(&self, side: &Side, seed: u64) -> Outcome {
        let asks: Vec<_> =
            (0..self.clients).map(|client| ask(seed, client, self.prompt, self.answer)).collect();
        let answers = at_once(side, &asks);
        let first = answers.iter().map(|answered| as_ms(answered.first_token()));
        let figures = vec![tokens_per_s(&answers), first.collect::<Series>().median()];
        Outcome::new(asks.len(), &answers, figures)
    }
}

/// One client that sends one request after another.
pub(super) struct One {
    pub(super) prompt: usize,
    pub(super) answer: u32,
}

/// Requests in a measurement. Their median counts, because a single one is over too soon.
const REQUESTS: usize = 5;

impl Work for One {
    fn figures(&self) -> Vec<Figure> {
        vec![Figure::rate("tokens/s after the first"), Figure::time("first token, ms")]
    }

    fn measure(&self, side: &Side, seed: u64) -> Outcome {
        let ask = |number| side.ask(&ask(seed, number, self.prompt, self.answer));
        let answers: Vec<_> = (0..REQUESTS).filter_map(ask).collect();
        let decoding: Series = answers.iter().map(Answered::decode_rate).collect();
        let first: Series = answers.iter().map(|one| as_ms(one.first_token())).collect();
        Outcome::new(REQUESTS, &answers, vec![decoding.median(), first.median()])
    }
}

/// A request unlike any other.
fn ask(seed: u64, number: usize, prompt: usize, answer: u32) -> Ask {
    Ask::new(Text::new(seed + number as u64).prose(prompt), answer)
}
