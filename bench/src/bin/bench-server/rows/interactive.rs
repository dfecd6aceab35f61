//! An interactive request that arrives while batch work is under way.

use std::thread;
use std::time::Duration;

use threadrunner_bench::as_ms;
use threadrunner_bench::text::Text;
use threadrunner_bench::work::{Ask, Runtime, at_once};
use threadrunner_core::Priority;

use crate::compare::{Figure, Outcome, Work};
use crate::side::Side;

/// How long the batch work has been running when the question arrives.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// Tokens in the question.
const QUESTION: usize = 15;

/// A question behind this many jobs.
pub(super) struct Interactive {
    pub(super) jobs: usize,
    /// Tokens in each job's prompt and answer.
    pub(super) prompt: usize,
    pub(super) answer: u32,
}

impl Work for Interactive {
    fn figures(&self) -> Vec<Figure> {
        vec![Figure::time("first token, ms")]
    }

    fn measure(&self, side: &Side, seed: u64) -> Outcome {
        let job = |number: usize| Ask {
            prompt: Text::new(seed + 1 + number as u64).prose(self.prompt),
            answer: self.answer,
            priority: Priority::Batch,
        };
        let jobs: Vec<_> = (0..self.jobs).map(job).collect();
        let question = Ask::new(Text::new(seed).prose(QUESTION), 8);
        let answered = thread::scope(|scope| {
            scope.spawn(|| at_once(side, &jobs));
            thread::sleep(UNDER_WAY);
            let answered = side.ask(&question);
            // How long the jobs take is measured by another row.
            side.abandon();
            answered
        });
        let first = answered.as_ref().map_or(f64::NAN, |answered| as_ms(answered.first_token()));
        Outcome::new(1, &answered, vec![first])
    }
}
