//! Job ids: digits and single underscores, so that name order is time order.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::micros_since_epoch;

/// The name of a job and of its directory.
///
/// Digits and single underscores, at most [`JobId::MAX_LEN`] bytes, beginning and ending with a
/// digit. So an id is never a path, a flag, or a hidden file. ThreadRunner's own ids are
/// `<microseconds since 1970, 16 digits>_<process>_<machine>`, and those of its first versions
/// lack the machine; other programs may form theirs differently.
/// Cheap to clone: with 100,000 queued jobs, each id is stored in several places.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Arc<str>);

/// Why a string is not a job id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is not a job id: ids are digits and single underscores, at most {} characters",
    JobId::MAX_LEN
)]
pub struct InvalidJobId {
    /// The text given, truncated for use in a message.
    pub text: String,
}

impl JobId {
    /// The maximum length of an id, in bytes.
    pub const MAX_LEN: usize = 128;

    /// The latest time that an id may begin with, in microseconds (in the year 2255). Ids keep
    /// increasing past it for decades before they need a 17th digit, which would sort them before all
    /// others.
    pub const LATEST: u64 = 9_000_000_000_000_000;

    /// Checks `text` against the rule for ids.
    ///
    /// # Errors
    /// [`InvalidJobId`] if `text` is empty, too long, or anything but digits with single
    /// underscores between them.
    pub fn parse(text: &str) -> Result<Self, InvalidJobId> {
        let well_formed = text.len() <= Self::MAX_LEN
            && text
                .split('_')
                .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        if well_formed {
            Ok(Self(text.into()))
        } else {
            Err(InvalidJobId { text: text.chars().take(Self::MAX_LEN).collect() })
        }
    }

    /// When the id was made, in microseconds since 1970, if it has the form of ThreadRunner's ids.
    /// The first part of another program's id may not be a time (sixteen nines, say), so only
    /// plausible times count.
    pub fn micros(&self) -> Option<u64> {
        let digits = self.0.split('_').next().unwrap_or_default();
        let micros = digits.parse().ok().filter(|&micros| micros <= JobId::LATEST)?;
        (digits.len() == 16).then_some(micros)
    }

    /// The number of the machine that made the id, if it has the form of ThreadRunner's ids and
    /// names one.
    pub fn machine(&self) -> Option<u32> {
        self.micros()?;
        let mut parts = self.0.split('_').skip(2);
        parts.next().filter(|_| parts.next().is_none())?.parse().ok()
    }

    /// The id as written on disk and on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({})", self.0)
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;
    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        Self::parse(text)
    }
}

impl TryFrom<String> for JobId {
    type Error = InvalidJobId;
    fn try_from(text: String) -> Result<Self, InvalidJobId> {
        Self::parse(&text)
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0.as_ref().into()
    }
}

/// Makes ids that never repeat and always increase, even if the clock goes back.
#[derive(Debug, Clone)]
pub struct JobIdSource {
    process: u32,
    machine: u32,
    last_micros: u64,
}

impl JobIdSource {
    /// A source of ids for this process. The two numbers keep the ids of two programs apart, and
    /// those of two machines.
    pub fn new(process: u32, machine: u32) -> Self {
        Self { process, machine, last_micros: 0 }
    }

    /// Makes every further id sort after `id`. Call it with the newest id found on disk.
    pub fn after(&mut self, id: &JobId) {
        if let Some(micros) = id.micros() {
            self.last_micros = self.last_micros.max(micros);
        }
    }

    /// The time of the newest id seen or made, in microseconds since 1970.
    pub fn newest_micros(&self) -> u64 {
        self.last_micros
    }

    /// Makes the next id, at time `now`.
    pub fn next_at(&mut self, now: SystemTime) -> JobId {
        self.next(micros_since_epoch(now))
    }

    /// Makes the next id, at time `now_micros` in microseconds since 1970.
    pub fn next(&mut self, now_micros: u64) -> JobId {
        self.last_micros = now_micros.min(JobId::LATEST).max(self.last_micros + 1);
        JobId(format!("{:016}_{}_{}", self.last_micros, self.process, self.machine).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_digits_and_single_underscores() {
        for good in ["1", "1736700000123456_12345_0", &"9".repeat(128)] {
            assert_eq!(JobId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "_1", "1_", "1__2", "a", "1.2", "../1", "1/2", "-1", "١", &"9".repeat(129)]
        {
            assert!(JobId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_keep_their_order_when_the_clock_goes_back() {
        let mut source = JobIdSource::new(7, 5);
        let first = source.next(1_736_700_000_123_456);
        let second = source.next(1_600_000_000_000_000);
        assert!(first < second);
        assert_eq!(second.as_str(), "1736700000123457_7_5");
    }

    #[test]
    fn ids_come_after_the_newest_one_on_disk() {
        let mut source = JobIdSource::new(7, 5);
        source.after(&JobId::parse("1736700000123456_1").unwrap());
        source.after(&JobId::parse("99").unwrap());
        assert_eq!(source.next(5).as_str(), "1736700000123457_7_5");
    }

    #[test]
    fn an_id_of_sixteen_nines_does_not_break_the_order_of_those_that_follow() {
        let mut source = JobIdSource::new(7, 5);
        let before = source.next(1_736_700_000_123_456);
        source.after(&JobId::parse("9999999999999999_1").unwrap());
        let after = source.next(1_736_700_000_123_500);
        assert!(before < after);
        assert_eq!(after.as_str(), "1736700000123500_7_5");
    }

    #[test]
    fn a_clock_that_is_set_far_ahead_makes_no_longer_ids() {
        let mut source = JobIdSource::new(7, 5);
        let ahead = source.next(u64::MAX);
        let then = source.next(1_736_700_000_123_456);
        assert_eq!((ahead.as_str().len(), then.as_str().len()), (20, 20));
        assert!(ahead < then);
    }

    #[test]
    fn an_id_tells_its_machine_and_sorts_among_those_that_do_not() {
        let id = JobIdSource::new(7, 5).next(1_736_700_000_123_456);
        assert_eq!(id.machine(), Some(5));
        let parse = |text: &str| JobId::parse(text).unwrap();
        for other in ["1736700000123456_7", "00001736700000123456_7_000001", "1_2_3_4", "7"] {
            assert_eq!(parse(other).machine(), None, "{other}");
        }
        let ids = ["1736700000123455_9", id.as_str(), "1736700000123457_1", "1736700000123458_1_9"];
        assert!(ids.map(parse).is_sorted_by(|a, b| a < b));
    }

    proptest! {
        #[test]
        fn ids_made_are_valid_and_ascend(times in prop::collection::vec(0u64..9_999_999_999_999_999, 1..50)) {
            let mut source = JobIdSource::new(u32::MAX, u32::MAX);
            let ids: Vec<_> = times.into_iter().map(|t| source.next(t)).collect();
            prop_assert!(ids.is_sorted_by(|a, b| a < b));
            for id in ids {
                prop_assert!(JobId::parse(id.as_str()).is_ok());
            }
        }
    }
}
