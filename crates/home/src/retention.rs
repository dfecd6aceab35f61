//! `[retention]`: which ended jobs to keep.

use std::time::Duration;

use serde::Deserialize;

use crate::amount;

/// Which ended jobs to keep: those within every limit that is set. Without a limit, all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Remove jobs that ended longer ago than this: `"7d"`, or seconds.
    #[serde(deserialize_with = "amount::some_duration")]
    pub max_age: Option<Duration>,
    /// Keep this many of the newest jobs.
    pub max_jobs: Option<u64>,
    /// Keep the newest jobs that take up no more than this on the disk: `"10 GB"`, or bytes.
    #[serde(deserialize_with = "amount::some_bytes")]
    pub max_bytes: Option<u64>,
    /// Keep failed and canceled jobs, and do not count them.
    pub keep_failed: bool,
}

impl RetentionConfig {
    /// Whether any limit is set.
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
