//! Timestamps as in `meta.json`: ISO 8601, UTC, microseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use threadrunner_core::protocol::JobRecord;

/// Microseconds since 1970; 0 for earlier times.
pub fn micros_since_epoch(time: SystemTime) -> u64 {
    let micros = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    u64::try_from(micros).unwrap_or(u64::MAX)
}

/// Formats a time as `2026-01-31T23:59:59.123456Z`.
pub fn format_timestamp(time: SystemTime) -> String {
    let micros = micros_since_epoch(time);
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{fraction:06}Z",
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60,
    )
}

/// Parses what [`format_timestamp`] writes, with or without a fraction of a second.
///
/// Returns `None` for other programs' spellings (offsets, no `T`): callers fall back on the file's
/// time.
pub fn parse_timestamp(text: &str) -> Option<SystemTime> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let [year, month, day] = numbers(date, '-')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [hour, minute, second] = numbers(time, ':')?;
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    if !in_range || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: u64 =
        if fraction.is_empty() { 0 } else { format!("{fraction:0<9}").parse().ok()? };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds) + Duration::from_nanos(nanos))
}

/// How long before `now` a job was submitted, in seconds; 0 if unknown.
pub fn age_s(record: &JobRecord, now: SystemTime) -> f64 {
    let submitted = record.meta.submitted_at.as_deref().and_then(parse_timestamp);
    let age = submitted.and_then(|time| now.duration_since(time).ok());
    age.unwrap_or_default().as_secs_f64()
}

fn numbers(text: &str, separator: char) -> Option<[u64; 3]> {
    let mut parts =
        text.split(separator).map(|part| match part.bytes().all(|b| b.is_ascii_digit()) {
            true => part.parse::<u64>().ok(),
            false => None,
        });
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

// Both count in years that begin in March, so that the leap day is the last day of a year, and in
// eras of 400 years (146,097 days), after which the calendar repeats. March 1 of the year 0 is
// 719,468 days before 1970.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
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
        fn times_survive_their_text(micros in 0u64..253_402_300_799_999_999) {
            let time = UNIX_EPOCH + Duration::from_micros(micros);
            prop_assert_eq!(parse_timestamp(&format_timestamp(time)), Some(time));
        }
    }
}
