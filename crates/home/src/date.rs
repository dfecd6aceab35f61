//! The date in a log file's name.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::Offset;

/// The day of `time` in UTC, as `YYYY-MM-DD`. Times before 1970 count as 1970-01-01.
pub fn utc_date(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or_default().max(Timestamp::UNIX_EPOCH);
    Offset::UTC.to_datetime(time).date().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01"),
            (86_399, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_767_225_599, "2025-12-31"),
            (1_767_225_600, "2026-01-01"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(utc_date(UNIX_EPOCH + Duration::from_secs(seconds)), date);
        }
    }
}
