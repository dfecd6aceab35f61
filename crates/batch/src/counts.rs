//! The progress of a batch: counts and rates.

use std::collections::VecDeque;
use std::time::Duration;

use threadrunner_core::FinishReason;
use tokio::time::Instant;

use crate::out::Before;

/// How far back the current rate looks.
const WINDOW: Duration = Duration::from_secs(30);
/// The minimum time between two samples for the rate.
const POINT: Duration = Duration::from_millis(500);

/// The counts of this run and of those before it.
#[derive(Debug)]
pub struct Counts {
    /// Lines that this run answered.
    pub done: u64,
    /// Lines that failed in this run.
    pub failed: u64,
    /// Of those answered, the ones that were cut.
    pub cut: u64,
    /// Tokens generated for those answered.
    pub tokens: u64,
    /// Lines that were in the output already.
    pub before: Before,
    /// Lines of the input, if known.
    pub total: Option<u64>,
    began: Instant,
    /// Samples for the rate: the time, and how many lines and tokens there were by then.
    points: VecDeque<(Instant, u64, u64)>,
}

/// How fast a batch is now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Lines per second.
    pub lines: f64,
    /// Generated tokens per second.
    pub tokens: f64,
}

impl Counts {
    /// The counts of a run that begins now.
    pub fn new(before: Before, total: Option<u64>, now: Instant) -> Self {
        Self {
            done: 0,
            failed: 0,
            cut: 0,
            tokens: 0,
            before,
            total,
            began: now,
            points: VecDeque::from([(now, 0, 0)]),
        }
    }

    /// Counts a line that was answered.
    pub fn add_answer(&mut self, tokens: u32, finish: FinishReason, now: Instant) {
        self.done += 1;
        let cut = matches!(finish, FinishReason::Length | FinishReason::Repetition);
        self.cut += u64::from(cut);
        self.tokens += u64::from(tokens);
        self.point(now);
    }

    /// Counts a line that failed.
    pub fn add_failure(&mut self, now: Instant) {
        self.failed += 1;
        self.point(now);
    }

    fn point(&mut self, now: Instant) {
        if self.points.back().is_none_or(|(at, ..)| now - *at >= POINT) {
            self.points.push_back((now, self.done + self.failed, self.tokens));
            while self.points.front().is_some_and(|(at, ..)| now - *at > WINDOW) {
                self.points.pop_front();
            }
        }
    }

    /// Lines in the output that have an answer.
    pub fn all_done(&self) -> u64 {
        self.done + self.before.done
    }

    /// Lines in the output that have an error.
    pub fn all_failed(&self) -> u64 {
        self.failed + self.before.failed
    }

    /// Lines in the output.
    pub fn written(&self) -> u64 {
        self.all_done() + self.all_failed()
    }

    /// How long this run has taken.
    pub fn elapsed(&self, now: Instant) -> Duration {
        now - self.began
    }

    /// The rate of the last half minute; `None` while there is too little to tell.
    pub fn rate(&self, now: Instant) -> Option<Rate> {
        let (at, lines, tokens) = self.points.front()?;
        let seconds = (now - *at).as_secs_f64();
        let lines = self.done + self.failed - lines;
        (seconds > 0.5 && lines > 0).then(|| Rate {
            lines: lines as f64 / seconds,
            tokens: (self.tokens - tokens) as f64 / seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_earlier_runs_count_as_written_and_not_for_the_rate() {
        let start = Instant::now();
        let before = Before { done: 10, failed: 1, existed: true };
        let mut counts = Counts::new(before, Some(2_000), start);
        assert_eq!(counts.rate(start), None);
        let end = start + Duration::from_secs(10);
        for reason in [FinishReason::Stop, FinishReason::Length, FinishReason::Repetition] {
            counts.add_answer(20, reason, end);
        }
        counts.add_failure(end);
        assert_eq!((counts.all_done(), counts.all_failed(), counts.written()), (13, 2, 15));
        assert_eq!((counts.cut, counts.elapsed(end)), (2, Duration::from_secs(10)));
        assert_eq!(counts.rate(end), Some(Rate { lines: 0.4, tokens: 6.0 }));
    }

    #[test]
    fn the_rate_is_that_of_the_last_half_minute() {
        let start = Instant::now();
        let mut counts = Counts::new(Before::default(), None, start);
        for second in 1..=100 {
            for _ in 0..if second <= 50 { 100 } else { 1 } {
                counts.add_answer(0, FinishReason::Stop, start + Duration::from_secs(second));
            }
        }
        let rate = counts.rate(start + Duration::from_secs(100)).unwrap();
        assert!((0.9..1.1).contains(&rate.lines), "{rate:?}");
    }
}
