//! What many people and scripts ask of one runtime within an hour, in less time.

use std::time::Duration;

use threadrunner_bench::as_ms;
use threadrunner_bench::text::Text;
use threadrunner_bench::work::{Answered, Ask, at_times, seconds};
use threadrunner_core::Priority;

use crate::compare::{Figure, Outcome, Work};
use crate::side::Side;

/// Requests, and the mean time between two: about as much as these processors can do.
const REQUESTS: usize = 64;
const GAP: Duration = Duration::from_millis(800);
/// Tokens in each answer.
const ANSWER: u32 = 64;

pub(super) struct Hour;

/// Requests of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Interactive,
    Short,
    Medium,
    Long,
}

impl Class {
    const ALL: [Self; 4] = [Self::Interactive, Self::Short, Self::Medium, Self::Long];

    /// Seven of ten are short, two of them interactive; two have 400 tokens, and one has 3,000.
    fn of(tenth: u64) -> Self {
        match tenth {
            0 | 1 => Self::Interactive,
            2..=6 => Self::Short,
            7 | 8 => Self::Medium,
            _ => Self::Long,
        }
    }

    fn ask(self, text: &mut Text) -> Ask {
        let (tokens, priority) = match self {
            Self::Interactive => (15 + text.below(46), Priority::Interactive),
            Self::Short => (15 + text.below(46), Priority::Normal),
            Self::Medium => (400, Priority::Normal),
            Self::Long => (3_000, Priority::Normal),
        };
        Ask { prompt: text.prose(tokens as usize), answer: ANSWER, priority }
    }
}

impl Work for Hour {
    fn figures(&self) -> Vec<Figure> {
        vec![
            Figure::time("time, s"),
            Figure::time("interactive: first token, p50, ms"),
            Figure::time("interactive: p99, ms"),
            Figure::time("short: first token, p50, ms"),
            Figure::time("short: p99, ms"),
            Figure::time("400 tokens: first token, p50, ms"),
            Figure::time("400 tokens: p99, ms"),
            Figure::time("3,000 tokens: first token, p50, ms"),
            Figure::time("3,000 tokens: p99, ms"),
        ]
    }

    fn measure(&self, side: &Side, seed: u64) -> Outcome {
        let mut at = Duration::ZERO;
        let (classes, asks): (Vec<_>, Vec<_>) = (0..REQUESTS)
            .map(|number| {
                let mut text = Text::new(seed + number as u64);
                // Exponential gaps: arrivals are independent of each other.
                at += GAP.mul_f64(-(1.0 - text.share()).ln());
                let class = Class::of(text.below(10));
                (class, (at, class.ask(&mut text)))
            })
            .unzip();
        let answers = at_times(side, &asks);
        let mut figures = vec![seconds(&answers.iter().flatten().cloned().collect::<Vec<_>>())];
        for class in Class::ALL {
            let of_class = classes.iter().zip(&answers).filter(|(of, _)| **of == class);
            let mut first: Vec<_> = of_class
                .filter_map(|(_, answered)| answered.as_ref())
                .map(Answered::first_token)
                .collect();
            first.sort();
            figures.extend([percentile(&first, 50), percentile(&first, 99)]);
        }
        Outcome::new(asks.len(), answers.iter().flatten(), figures)
    }
}

/// A percentile in milliseconds; NaN if there are no figures.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).map_or(f64::NAN, |time| as_ms(*time))
}
