//! The progress of a batch in words: counts, rates and the time left. indicatif has one rate, not one
//! of jobs and one of tokens.

use threadrunner_batch::Counts;
use tokio::time::Instant;

use crate::format;
use crate::terminal::{Glyphs, glyphs};

/// The width of the bar, in cells.
const BAR: u64 = 20;

/// Formats the progress as one line for the terminal.
pub(super) fn label(counts: &Counts, now: Instant) -> String {
    let written = counts.written();
    let mut parts = Vec::new();
    match counts.total.filter(|total| *total > 0) {
        Some(total) => {
            let filled = (written * BAR / total).min(BAR);
            let Glyphs { full, empty, .. } = glyphs();
            let bar: String =
                (0..BAR).map(|cell| if cell < filled { full } else { empty }).collect();
            let percent = (written * 100 / total).min(100);
            let of = format!("{}/{}", thousands(written), thousands(total));
            parts.push(format!("{bar} {of} {percent} %"));
        }
        None => parts.push(format!("{} done", thousands(written))),
    }
    if counts.all_failed() > 0 {
        parts.push(format!("{} failed", thousands(counts.all_failed())));
    }
    if let Some(rate) = counts.rate(now) {
        parts.push(format!("{} jobs/s", few_digits(rate.lines)));
        parts.push(format!("{} tokens/s", few_digits(rate.tokens)));
        if let Some(left) = counts.total.map(|total| total.saturating_sub(written)) {
            parts.push(format!("{} left", format::seconds(left as f64 / rate.lines)));
        }
    }
    parts.join(", ")
}

/// Formats the summary for the end of the batch.
pub(super) fn summary(counts: &Counts, now: Instant) -> String {
    let seconds = counts.elapsed(now).as_secs_f64();
    let mut text = format!("{} done", thousands(counts.all_done()));
    if counts.cut > 0 {
        text.push_str(&format!(" ({} cut short)", thousands(counts.cut)));
    }
    if counts.all_failed() > 0 {
        text.push_str(&format!(", {} failed", thousands(counts.all_failed())));
    }
    let now = counts.done + counts.failed;
    let before = counts.before.done + counts.before.failed;
    if before > 0 {
        text.push_str(&format!(" ({} of them by earlier runs)", thousands(before)));
    }
    text.push_str(&format!(", in {}", format::seconds(seconds)));
    if now > 0 && seconds > 0.0 {
        text.push_str(&format!(
            ": {} jobs/s, {} tokens/s",
            few_digits(now as f64 / seconds),
            few_digits(counts.tokens as f64 / seconds)
        ));
    }
    text
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
    use std::time::Duration;

    use threadrunner_batch::Before;
    use threadrunner_core::FinishReason;

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
        assert_eq!(label(&counts, start), format!("{} 10/2,000 0 %", bar(0, 20)));
        for second in 1..=10 {
            for _ in 0..99 {
                counts.add_answer(2, FinishReason::Stop, start + Duration::from_secs(second));
            }
        }
        let end = start + Duration::from_secs(10);
        counts.add_failure(end);
        assert_eq!(
            label(&counts, end),
            format!(
                "{} 1,001/2,000 50 %, 1 failed, 99 jobs/s, 198 tokens/s, 10 s left",
                bar(10, 20)
            )
        );
        assert_eq!(
            summary(&counts, end),
            "1,000 done, 1 failed (10 of them by earlier runs), in 10 s: 99 jobs/s, 198 tokens/s"
        );
        counts.add_answer(2, FinishReason::Repetition, end);
        counts.add_answer(2, FinishReason::Length, end);
        let said = summary(&counts, end);
        assert!(said.starts_with("1,002 done (2 cut short), 1 failed"), "{said}");
    }

    #[test]
    fn without_a_total_there_is_no_bar() {
        let start = Instant::now();
        let mut counts = Counts::new(Before::default(), None, start);
        for _ in 0..5_050 {
            counts.add_answer(0, FinishReason::Stop, start);
        }
        assert_eq!(label(&counts, start), "5,050 done");
    }
}
