//! `[retention]`: which jobs that have ended are kept.

use std::time::Duration;

use serde::Deserialize;

use crate::amount;

/// Which jobs that have ended are kept: those within every limit that is set. Without one, all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Jobs that ended longer ago than this are removed: `"7d"`, or seconds.
    #[serde(deserialize_with = "amount::some_duration")]
    pub max_age: Option<Duration>,
    /// The newest so many are kept.
    pub max_jobs: Option<u64>,
    /// The newest are kept that take up no more than this on the disk: `"10 GB"`, or bytes.
    #[serde(deserialize_with = "amount::some_bytes")]
    pub max_bytes: Option<u64>,
    /// Jobs that failed or were canceled stay, and do not count.
    pub keep_failed: bool,
}

impl RetentionConfig {
    /// Whether anything is ever removed.
    pub fn limits(&self) -> bool {
        self.max_age.is_some() || self.max_jobs.is_some() || self.max_bytes.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RetentionConfig, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    #[test]
    fn ages_and_sizes_are_numbers_or_have_a_unit() {
        let age = |text: &str| read(&format!("max_age = {text}")).unwrap().max_age.unwrap();
        assert_eq!(age("90").as_secs(), 90);
        assert_eq!(age("\"7d\"").as_secs(), 604_800);
        let size = |text: &str| read(&format!("max_bytes = {text}")).unwrap().max_bytes.unwrap();
        assert_eq!(size("1000000"), 1_000_000);
        assert_eq!(size("\"10 GB\""), 10_000_000_000);
    }

    #[test]
    fn nothing_is_removed_unless_a_limit_says_so() {
        assert!(!read("").unwrap().limits());
        assert!(!read("keep_failed = true").unwrap().limits());
        assert!(read("max_jobs = 0").unwrap().limits());
    }

    #[test]
    fn what_is_no_amount_is_refused_with_an_example() {
        for (text, words) in [
            ("max_age = \"soon\"", "7d"),
            ("max_bytes = 100", "\"100 GB\""),
            ("max_jobs = -1", "-1"),
            ("max_hours = 1", "max_hours"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
