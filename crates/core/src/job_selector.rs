//! How a job is named to a program: by its id, a part of it, or `last`.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::JobId;

/// Names one job: an id, a prefix or suffix of one that fits no other, or `last`. A suffix may leave
/// out the machine, which is the same for most jobs.
///
/// Any text is read as one. Which job it names, if any, is found where the jobs are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobSelector(Box<str>);

impl JobSelector {
    /// The name of the newest job.
    pub const LAST: &str = "last";

    /// Whether it names the newest job.
    pub fn is_last(&self) -> bool {
        &*self.0 == Self::LAST
    }

    /// The id that it may be in whole. It may be a part of another id as well.
    pub fn id(&self) -> Option<JobId> {
        JobId::parse(&self.0).ok()
    }

    /// Whether it may be part of an id.
    pub fn is_part_of_an_id(&self) -> bool {
        let in_an_id = |byte: u8| byte.is_ascii_digit() || byte == b'_';
        (1..=JobId::MAX_LEN).contains(&self.0.len()) && self.0.bytes().all(in_an_id)
    }

    /// Whether it is part of the id `id`.
    pub fn is_part_of(&self, id: &str) -> bool {
        let without_machine = || {
            let (rest, _) = id.rsplit_once('_').filter(|(rest, _)| rest.contains('_'))?;
            Some(rest.ends_with(&*self.0))
        };
        id.starts_with(&*self.0) || id.ends_with(&*self.0) || without_machine() == Some(true)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for JobSelector {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.into())
    }
}

impl From<&str> for JobSelector {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<&JobId> for JobSelector {
    fn from(id: &JobId) -> Self {
        id.as_str().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_by_a_part_of_its_id_or_is_the_last() {
        let id = "1736700000123456_12345_678";
        for part in [id, "1", "17367", "_678", "5_678", "8", "_12345", "6_12345", "5"] {
            let part = JobSelector::from(part);
            assert!(part.is_part_of_an_id() && part.is_part_of(id), "{part}");
            assert!(!part.is_last());
        }
        for other in ["2", "123", "_", "1736700000123456_1234_", "3456"] {
            let other = JobSelector::from(other);
            assert!(other.is_part_of_an_id() && !other.is_part_of(id), "{other}");
        }
        for strange in ["", "last", "latest", "../1", "-1", &"1".repeat(129)] {
            assert!(!JobSelector::from(strange).is_part_of_an_id(), "{strange}");
        }
        assert!(JobSelector::from("last").is_last());
        assert_eq!(JobSelector::from("12_3").id(), JobId::parse("12_3").ok());
        assert_eq!(JobSelector::from("12_").id(), None);
    }
}
