//! Timestamps as in `meta.json`: ISO 8601, UTC, microseconds.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use threadrunner_core::protocol::JobRecord;

/// Microseconds since 1970; 0 for earlier times.
pub fn micros_since_epoch(time: SystemTime) -> u64 {
    let micros = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    u64::try_from(micros).unwrap_or(u64::MAX)
}

/// Formats a time as `2026-01-31T23:59:59.123456Z`. Earlier times than 1970 are written as 1970.
pub fn format_timestamp(time: SystemTime) -> String {
    let time = match Timestamp::try_from(time) {
        Ok(time) => time.max(Timestamp::UNIX_EPOCH),
        Err(_) if time < UNIX_EPOCH => Timestamp::UNIX_EPOCH,
        Err(_) => Timestamp::MAX,
    };
    format!("{time:.6}")
}

/// Parses what [`format_timestamp`] writes, with or without a fraction of a second.
///
/// Returns `None` for other programs' spellings (offsets, no `T`): callers fall back on the file's
/// time.
pub fn parse_timestamp(text: &str) -> Option<SystemTime> {
    // jiff reads every spelling of ISO 8601.
    let ours = text.get(10..11) == Some("T") && text.get(16..17) == Some(":");
    let time = text.parse::<Timestamp>().ok().filter(|_| ours && text.ends_with('Z'))?;
    SystemTime::try_from(time).ok().filter(|time| *time >= UNIX_EPOCH)
}

/// How long before `now` a job was submitted, in seconds; 0 if unknown.
pub fn age_s(record: &JobRecord, now: SystemTime) -> f64 {
    let submitted = record.meta.submitted_at.as_deref().and_then(parse_timestamp);
    let age = submitted.and_then(|time| now.duration_since(time).ok());
    age.unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

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
