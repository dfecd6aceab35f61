//! A stream that goes on while another client's long prompt is read.

use std::thread;
use std::time::Duration;

use threadrunner_bench::as_ms;
use threadrunner_bench::text::Text;
use threadrunner_bench::work::{Ask, Runtime};

use crate::compare::{Figure, Outcome, Work};
use crate::side::Side;

/// How long the stream has been running when the prompt arrives.
const UNDER_WAY: Duration = Duration::from_millis(1_500);
/// Tokens in the stream's answer: more than are generated meanwhile.
const STREAMED: u32 = 1_000;

/// A stream beside a prompt of this many tokens.
pub(super) struct Stream {
    pub(super) long: usize,
    /// Tokens in the answer to the long prompt.
    pub(super) answer: u32,
}

impl Work for Stream {
    fn figures(&self) -> Vec<Figure> {
        vec![
            Figure::time("the stream's longest gap, ms"),
            Figure::time("the long prompt's first token, ms"),
        ]
    }

    fn measure(&self, side: &Side, seed: u64) -> Outcome {
        let streamed = Ask::new(endless(seed), STREAMED);
        let long = Ask::new(Text::new(seed + 1).prose(self.long), self.answer);
        let (stream, other) = thread::scope(|scope| {
            let stream = scope.spawn(|| side.ask(&streamed));
            thread::sleep(UNDER_WAY);
            let other = side.ask(&long);
            (stream.join().expect("a client ends"), other)
        });
        let mut figures = vec![f64::NAN; 2];
        if let (Some(stream), Some(other)) = (&stream, &other) {
            let (begin, end) = (other.sent, other.sent + other.first_token());
            // Gaps that overlap the reading, even in part.
            let gaps = stream.pieces.windows(2).filter(|gap| gap[1] > begin && gap[0] < end);
            let longest = gaps.map(|gap| as_ms(gap[1] - gap[0])).fold(0.0, f64::max);
            // A stream that ended too soon has no meaningful gap.
            figures[0] = if stream.end > end { longest } else { f64::NAN };
            figures[1] = as_ms(other.first_token());
        }
        Outcome::new(2, stream.iter().chain(&other), figures)
    }
}

/// A prompt that a model continues for as long as it may.
fn endless(seed: u64) -> String {
    let from = (seed >> 32) * 10;
    let numbers: Vec<_> = (from..from + 12).map(|number| number.to_string()).collect();
    format!("{}, ", numbers.join(", "))
}
