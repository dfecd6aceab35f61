//! Durations and sizes as people write them. Command line, `config.toml` and wire share one syntax
//! for each. jiff's does not take `30` or, as a duration, `7d`, and does take `1,5m`.

use std::time::Duration;

/// The longest duration, in seconds: 31 years. Beyond any use, and small enough that adding it to a
/// clock cannot overflow.
const MOST_SECONDS: f64 = 1e9;

/// The largest size, in bytes. Up to here an `f64` holds every integer exactly.
const MOST_BYTES: f64 = 9e15;

/// Sizes below this need a unit: so small a bare number is a slip, meant in a larger unit.
const FEWEST_BYTES: f64 = 1e6;

const TIMES: [(&str, f64); 6] =
    [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0), ("w", 604_800.0)];

const SIZES: [(&str, f64); 13] = [
    ("B", 1.0),
    ("K", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
];

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a duration: try 30, 30s, 5m, 2h, 1h30m, 7d or 500ms")]
pub struct InvalidDuration(pub String);

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSize {
    /// Not a number with a known unit, or too large.
    #[error("'{0}' is not a size: try \"500 MB\", \"10 GB\" or \"4 GiB\"")]
    NotASize(String),
    /// A small number without a unit, probably meant in a larger unit.
    #[error("{0} without a unit is {0} bytes: write \"{0} MB\" or \"{0} GB\"")]
    NoUnit(String),
}

/// Reads a duration: `30`, `30s`, `1.5m`, `2h`, `7d`, `500ms`, `1h30m`. A bare number is seconds.
///
/// # Errors
/// If the text is not a duration, or is one longer than 31 years.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    duration_of(text.trim()).ok_or_else(|| InvalidDuration(text.to_owned()))
}

/// A duration of this many seconds.
///
/// # Errors
/// If `seconds` is negative, not a number, or more than 31 years.
pub fn duration_of_seconds(seconds: f64) -> Result<Duration, InvalidDuration> {
    let possible = (0.0..=MOST_SECONDS).contains(&seconds);
    possible
        .then(|| Duration::from_secs_f64(seconds))
        .ok_or_else(|| InvalidDuration(seconds.to_string()))
}

/// Reads a size in bytes: `500 MB`, `4 GiB`, `8000000000`. The unit's case does not matter.
///
/// # Errors
/// If the text is not a size, or is a number between 0 and a million without a unit.
pub fn parse_size(text: &str) -> Result<u64, InvalidSize> {
    let trimmed = text.trim();
    let not_a_size = || InvalidSize::NotASize(text.to_owned());
    let (number, unit, rest) = split(trimmed).ok_or_else(not_a_size)?;
    let factor = match unit {
        "" if rest.is_empty() && number > 0.0 && number < FEWEST_BYTES => {
            return Err(InvalidSize::NoUnit(trimmed.to_owned()));
        }
        "" => 1.0,
        unit => {
            let known = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
            known.ok_or_else(not_a_size)?.1
        }
    };
    let bytes = number * factor;
    if rest.is_empty() && bytes <= MOST_BYTES { Ok(bytes as u64) } else { Err(not_a_size()) }
}

fn duration_of(text: &str) -> Option<Duration> {
    let (mut seconds, mut rest) = (0.0, text);
    loop {
        let (number, unit, after) = split(rest)?;
        seconds += match unit {
            // Only a lone number may lack a unit: in `1h30`, the 30 could be minutes or seconds.
            "" if rest == text && after.is_empty() => number,
            unit => number * TIMES.iter().find(|(name, _)| *name == unit)?.1,
        };
        if after.is_empty() {
            return duration_of_seconds(seconds).ok();
        }
        rest = after;
    }
}

/// Splits off a number without sign or exponent and its unit; returns both and the rest.
fn split(text: &str) -> Option<(f64, &str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    Some((number.parse().ok()?, unit, rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_unless_they_say_otherwise() {
        for (text, seconds) in [
            ("30", 30.0),
            ("30s", 30.0),
            ("1.5m", 90.0),
            ("5 m", 300.0),
            ("2h", 7200.0),
            ("1h30m", 5400.0),
            ("1d 12h", 129_600.0),
            ("7d", 604_800.0),
            ("2w", 1_209_600.0),
            ("500ms", 0.5),
            ("0", 0.0),
        ] {
            assert_eq!(parse_duration(text).map(|time| time.as_secs_f64()), Ok(seconds), "{text}");
        }
        for bad in [
            "",
            " ",
            "s",
            "-1",
            "1x",
            "ten",
            "1e9",
            "nan",
            "inf",
            ".",
            "1.2.3",
            "99999999999d",
            "1h30",
            "30 1h",
            "1h-5m",
            "5M",
            "5 minutes",
            "1,5m",
        ] {
            assert_eq!(parse_duration(bad), Err(InvalidDuration(bad.to_owned())));
        }
        assert!(duration_of_seconds(-1.0).is_err());
        assert!(duration_of_seconds(f64::NAN).is_err());
    }

    #[test]
    fn sizes_have_a_unit_unless_they_are_large() {
        for (text, bytes) in [
            ("500 MB", 500_000_000),
            ("10GB", 10_000_000_000),
            ("1.5 gb", 1_500_000_000),
            ("1GiB", 1 << 30),
            ("512 B", 512),
            ("0", 0),
            ("8000000000", 8_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for slip in ["1", "70", "1000", "0.5", "999999"] {
            let error = parse_size(slip).unwrap_err();
            assert_eq!(error, InvalidSize::NoUnit(slip.to_owned()));
            assert!(error.to_string().contains(&format!("\"{slip} GB\"")), "{error}");
        }
        for bad in ["", "GB", "7d", "1e5", "1.2.3 GB", "-1", "half", "70 %", "1 GB 2", "10000 TB"] {
            assert_eq!(parse_size(bad), Err(InvalidSize::NotASize(bad.to_owned())), "{bad}");
        }
    }
}
