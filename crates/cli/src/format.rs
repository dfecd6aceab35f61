//! Numbers and times, formatted for people: with two units at most, which jiff's printer cannot do.

use std::time::SystemTime;

use threadrunner_core::Timestamp;

use crate::terminal::glyphs;

/// A size like `1.2 GB`, in powers of ten, as on disks and in `ls -h --si`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A count like `12`, `1.2k`, `3.4M`.
pub(crate) fn count(count: u32) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1}k", f64::from(count) / 1e3),
        _ => format!("{:.1}M", f64::from(count) / 1e6),
    }
}

/// A duration like `12 ms`, `0.4 s`, `12 s`, `3m 12s`, `2h 5m`, `3d 4h`.
pub(crate) fn seconds(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0 if seconds < 0.1 => format!("{:.0} ms", seconds.max(0.0) * 1e3),
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3_600 => format!("{}m {}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h {}m", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{}d {}h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

/// The beginning of a prompt, on one line. A record has at most 80 characters of it: so many, and
/// there is probably more.
pub(crate) fn prompt_start(start: &str) -> String {
    let mut line = one_line(start);
    if start.chars().count() >= 80 {
        line.push(glyphs().more);
    }
    line
}

/// A fraction from 0 to 1, as `43 %`.
pub(crate) fn percent(fraction: f32) -> String {
    format!("{:.0} %", (fraction.clamp(0.0, 1.0)) * 100.0)
}

/// How long ago a time was; `None` if it cannot be read.
pub(crate) fn age(time: &Timestamp, now: SystemTime) -> Option<String> {
    let age = now.duration_since(time.time()?).unwrap_or_default();
    Some(seconds_briefly(age.as_secs()))
}

/// A duration like `5s`, `3m`, `2h`, `4d`, short enough for a column.
fn seconds_briefly(whole: u64) -> String {
    match whole {
        0..60 => format!("{whole}s"),
        60..3_600 => format!("{}m", whole / 60),
        3_600..86_400 => format!("{}h", whole / 3_600),
        _ => format!("{}d", whole / 86_400),
    }
}

/// The text with control characters replaced by spaces, so that no prompt can control the terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn bytes_have_two_or_three_digits() {
        for (given, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (98_765_432, "98.8 MB"),
            (999_999, "1.0 MB"),
            (144_811_904, "145 MB"),
            (1_234_567_890, "1.2 GB"),
        ] {
            assert_eq!(bytes(given), text);
        }
    }

    #[test]
    fn times_have_two_units_at_most() {
        for (given, text) in [
            (0.0123, "12 ms"),
            (0.42, "0.4 s"),
            (9.99, "10.0 s"),
            (42.0, "42 s"),
            (192.0, "3m 12s"),
            (7_500.0, "2h 5m"),
            (273_600.0, "3d 4h"),
        ] {
            assert_eq!(seconds(given), text);
        }
    }

    #[test]
    fn ages_are_told_from_iso_times() {
        let now = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        for (time, text) in [
            ("2026-01-01T00:00:00.000000Z", "0s"),
            ("2025-12-31T23:59:18.500000Z", "41s"),
            ("2025-12-31T23:00:00Z", "1h"),
            ("2024-02-29T00:00:00Z", "672d"),
            ("2027-01-01T00:00:00Z", "0s"),
        ] {
            assert_eq!(age(&time.into(), now).unwrap(), text, "{time}");
        }
        for bad in ["", "yesterday", "2026-01-01", "2026-13-01T00:00:00Z", "2026-01-01T00:00Z"] {
            assert_eq!(age(&bad.into(), now), None, "{bad}");
        }
    }

    #[test]
    fn counts_are_short() {
        assert_eq!([count(999), count(1_234), count(2_500_000)], ["999", "1.2k", "2.5M"]);
    }

    #[test]
    fn control_characters_become_spaces() {
        assert_eq!(one_line("a\x1b[2Jb\nc"), "a [2Jb c");
    }
}
