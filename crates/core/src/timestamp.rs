//! Times as texts, on disk and on the wires.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A time as in `meta.json`: ISO 8601 in UTC with microseconds, `2026-01-31T23:59:59.123456Z`.
///
/// What was read is kept to the byte, because other programs write times too, in spellings that
/// [`Timestamp::time`] may not understand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(Box<str>);

impl Timestamp {
    /// The timestamp of a time; that of 1970 for earlier times.
    pub fn at(time: SystemTime) -> Self {
        Self(format_timestamp(time).into())
    }

    /// The time that it states, with or without a fraction of a second.
    ///
    /// `None` for other programs' spellings (offsets, no `T`).
    pub fn time(&self) -> Option<SystemTime> {
        parse_timestamp(&self.0)
    }

    /// How long before `now` it is; `None` if it is later, or if it cannot be read.
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(self.time()?).ok()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Timestamp {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// Microseconds since 1970; 0 for earlier times.
pub fn micros_since_epoch(time: SystemTime) -> u64 {
    let micros = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    u64::try_from(micros).unwrap_or(u64::MAX)
}

fn format_timestamp(time: SystemTime) -> String {
    let time = match jiff::Timestamp::try_from(time) {
        Ok(time) => time.max(jiff::Timestamp::UNIX_EPOCH),
        Err(_) if time < UNIX_EPOCH => jiff::Timestamp::UNIX_EPOCH,
        Err(_) => jiff::Timestamp::MAX,
    };
    format!("{time:.6}")
}

fn parse_timestamp(text: &str) -> Option<SystemTime> {
    // jiff reads every spelling of ISO 8601.
    let ours = text.get(10..11) == Some("T") && text.get(16..17) == Some(":");
    let time = text.parse::<jiff::Timestamp>().ok().filter(|_| ours && text.ends_with('Z'))?;
    SystemTime::try_from(time).ok().filter(|time| *time >= UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64, micros: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros)
    }

    #[test]
    fn known_times_are_written_as_they_are_known() {
        assert_eq!(format_timestamp(UNIX_EPOCH), "1970-01-01T00:00:00.000000Z");
        assert_eq!(format_timestamp(at(951_827_696, 7)), "2000-02-29T12:34:56.000007Z");
        assert_eq!(format_timestamp(at(1_767_225_599, 999_999)), "2025-12-31T23:59:59.999999Z");
        assert_eq!(format_timestamp(at(4_107_542_400, 0)), "2100-03-01T00:00:00.000000Z");
    }

    #[test]
    fn a_spelling_of_another_program_is_kept() {
        for text in ["2026-01-31T12:00:00Z", "31.01.2026", ""] {
            let read: Timestamp = serde_json::from_value(text.into()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), text);
        }
        let now = at(100, 0);
        assert_eq!(Timestamp::at(at(40, 0)).age(now), Some(Duration::from_secs(60)));
        assert_eq!(Timestamp::at(at(101, 0)).age(now), None);
        assert_eq!(Timestamp::from("yesterday").age(now), None);
    }

    #[test]
    fn a_clock_before_1970_is_1970() {
        let before = UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(format_timestamp(before), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn what_is_no_timestamp_is_none() {
        for text in [
            "",
            "Z",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00.Z0Z",
            "2026-01-01T00:00:00.1234567890Z",
            "+026-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
        assert_eq!(parse_timestamp("1970-01-01T00:00:01Z"), Some(at(1, 0)));
    }

    proptest! {
        #[test]
        fn times_survive_their_text(micros in 0u64..253_402_207_200_000_000) {
            let time = UNIX_EPOCH + Duration::from_micros(micros);
            prop_assert_eq!(parse_timestamp(&format_timestamp(time)), Some(time));
        }
    }
}
