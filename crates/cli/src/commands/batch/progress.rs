//! The progress of a batch: counts, rates and the time left.

use std::collections::VecDeque;
use std::time::Duration;

use threadrunner_core::FinishReason;
use tokio::time::Instant;

use super::out::Before;
use crate::format;
use crate::terminal::{Glyphs, glyphs};

/// How far back the current rate looks.
const WINDOW: Duration = Duration::from_secs(30);
/// The minimum time between two samples for the rate.
const POINT: Duration = Duration::from_millis(500);
/// The width of the bar, in cells.
const BAR: u64 = 20;

/// The counts of this run and of those before it.
#[derive(Debug)]
pub(super) struct Counts {
    /// Lines that this run answered, and lines that failed in it.
    done: u64,
    failed: u64,
    /// Of those answered, the ones that were cut.
    cut: u64,
    /// Tokens generated for them.
    tokens: u64,
    /// Lines that were in the output already.
    before: Before,
    /// Lines of the input, if known.
    total: Option<u64>,
    began: Instant,
    /// Samples for the rate: the time, and how many jobs and tokens there were by then.
    points: VecDeque<(Instant, u64, u64)>,
}

impl Counts {
    pub(super) fn new(before: Before, total: Option<u64>, now: Instant) -> Self {
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
    pub(super) fn answered(&mut self, tokens: u32, finish: FinishReason, now: Instant) {
        self.done += 1;
        let cut = matches!(finish, FinishReason::Length | FinishReason::Repetition);
        self.cut += u64::from(cut);
        self.tokens += u64::from(tokens);
        self.point(now);
    }

    /// Counts a line that failed.
    pub(super) fn failed(&mut self, now: Instant) {
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

    /// Whether any line failed, now or before.
    pub(super) fn any_failed(&self) -> bool {
        self.failed + self.before.failed > 0
    }

    /// Lines in the output.
    pub(super) fn written(&self) -> u64 {
        self.done + self.failed + self.before.done + self.before.failed
    }

    /// The current rate: jobs and tokens per second.
    fn rate(&self, now: Instant) -> Option<(f64, f64)> {
        let (at, jobs, tokens) = self.points.front()?;
        let seconds = (now - *at).as_secs_f64();
        let jobs = self.done + self.failed - jobs;
        (seconds > 0.5 && jobs > 0)
            .then(|| (jobs as f64 / seconds, (self.tokens - tokens) as f64 / seconds))
    }

    /// Formats the progress as one line for the terminal.
    pub(super) fn label(&self, now: Instant) -> String {
        let written = self.written();
        let mut parts = Vec::new();
        match self.total.filter(|total| *total > 0) {
            Some(total) => {
                let filled = (written * BAR / total).min(BAR);
                let Glyphs { full, empty, .. } = glyphs();
                let bar: String =
                    (0..BAR).map(|cell| if cell < filled { full } else { empty }).collect();
                let percent = (written * 100 / total).min(100);
                let counts = format!("{}/{}", thousands(written), thousands(total));
                parts.push(format!("{bar} {counts} {percent} %"));
            }
            None => parts.push(format!("{} done", thousands(written))),
        }
        let failed = self.failed + self.before.failed;
        if failed > 0 {
            parts.push(format!("{} failed", thousands(failed)));
        }
        if let Some((jobs, tokens)) = self.rate(now) {
            parts.push(format!("{} jobs/s", few_digits(jobs)));
            parts.push(format!("{} tokens/s", few_digits(tokens)));
            if let Some(left) = self.total.map(|total| total.saturating_sub(written)) {
                parts.push(format!("{} left", format::seconds(left as f64 / jobs)));
            }
        }
        parts.join(", ")
    }

    /// Formats the summary for the end of the batch.
    pub(super) fn summary(&self, now: Instant) -> String {
        let done = self.done + self.before.done;
        let failed = self.failed + self.before.failed;
        let seconds = (now - self.began).as_secs_f64();
        let mut text = format!("{} done", thousands(done));
        if self.cut > 0 {
            text.push_str(&format!(" ({} cut short)", thousands(self.cut)));
        }
        if failed > 0 {
            text.push_str(&format!(", {} failed", thousands(failed)));
        }
        let now = self.done + self.failed;
        let before = self.before.done + self.before.failed;
        if before > 0 {
            text.push_str(&format!(" ({} of them by earlier runs)", thousands(before)));
        }
        text.push_str(&format!(", in {}", format::seconds(seconds)));
        if now > 0 && seconds > 0.0 {
            text.push_str(&format!(
                ": {} jobs/s, {} tokens/s",
                few_digits(now as f64 / seconds),
                few_digits(self.tokens as f64 / seconds)
            ));
        }
        text
    }
}

/// Formats a count with separators, as in `1,234,567`.
fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn few_digits(rate: f64) -> String {
    match rate {
        0.0..10.0 => format!("{rate:.1}"),
        _ => thousands(rate.round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_rate_and_time_left() {
        let start = Instant::now();
        let before = Before { done: 10, failed: 0, existed: true };
        let mut counts = Counts::new(before, Some(2_000), start);
        // The locale that the test runs in decides how the bar is drawn.
        let Glyphs { full, empty, .. } = glyphs();
        let bar = |filled: usize, of: usize| -> String {
            (0..of).map(|cell| if cell < filled { full } else { empty }).collect()
        };
        assert_eq!(counts.label(start), format!("{} 10/2,000 0 %", bar(0, 20)));
        for second in 1..=10 {
            for _ in 0..99 {
                counts.answered(2, FinishReason::Stop, start + Duration::from_secs(second));
            }
        }
        counts.failed(start + Duration::from_secs(10));
        assert_eq!(
            counts.label(start + Duration::from_secs(10)),
            format!(
                "{} 1,001/2,000 50 %, 1 failed, 99 jobs/s, 198 tokens/s, 10 s left",
                bar(10, 20)
            )
        );
        assert_eq!(
            counts.summary(start + Duration::from_secs(10)),
            "1,000 done, 1 failed (10 of them by earlier runs), in 10 s: 99 jobs/s, 198 tokens/s"
        );
        assert!(counts.any_failed());
        counts.answered(2, FinishReason::Repetition, start + Duration::from_secs(10));
        counts.answered(2, FinishReason::Length, start + Duration::from_secs(10));
        let summary = counts.summary(start + Duration::from_secs(10));
        assert!(summary.starts_with("1,002 done (2 cut short), 1 failed"), "{summary}");
    }

    #[test]
    fn the_rate_is_that_of_the_last_half_minute() {
        let start = Instant::now();
        let mut counts = Counts::new(Before::default(), None, start);
        for second in 1..=100 {
            for _ in 0..if second <= 50 { 100 } else { 1 } {
                counts.answered(0, FinishReason::Stop, start + Duration::from_secs(second));
            }
        }
        let (jobs, _) = counts.rate(start + Duration::from_secs(100)).unwrap();
        assert!((0.9..1.1).contains(&jobs), "{jobs}");
        assert!(counts.label(start).starts_with("5,050 done"));
    }
}
