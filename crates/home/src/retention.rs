//! `[retention]`: which jobs that have ended are kept.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Which jobs that have ended are kept: those within every limit that is set. Without one, all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Jobs that ended longer ago than this are removed: `"7d"`, or seconds.
    #[serde(deserialize_with = "age")]
    pub max_age: Option<Duration>,
    /// The newest so many are kept.
    pub max_jobs: Option<u64>,
    /// The newest are kept that take up no more than this on the disk: `"10 GB"`, or bytes.
    #[serde(deserialize_with = "size")]
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

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number, or a text such as \"7d\" or \"10 GB\"")]
enum Amount {
    Number(f64),
    Text(String),
}

const AGES: &[(&str, f64)] =
    &[("", 1.0), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0), ("w", 604_800.0)];

pub(crate) const SIZES: &[(&str, f64)] = &[
    ("", 1.0),
    ("B", 1.0),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
];

/// The largest amount: exact as a number, and in seconds longer than anybody waits.
const MOST: f64 = 9e15;

/// A number of bytes, or a text such as `"10 GB"`.
pub(crate) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    amount(deserializer, SIZES, "\"500 MB\", \"10 GB\"").map(|bytes| bytes as u64)
}

fn amount<'de, D: Deserializer<'de>>(
    deserializer: D,
    units: &[(&str, f64)],
    such_as: &str,
) -> Result<f64, D::Error> {
    let (number, text) = match Amount::deserialize(deserializer)? {
        Amount::Number(number) => (Some(number), number.to_string()),
        Amount::Text(text) => (parse(&text, units), text),
    };
    number.filter(|number| (0.0..=MOST).contains(number)).ok_or_else(|| {
        serde::de::Error::custom(format!("'{text}' is neither a number from 0 nor like {such_as}"))
    })
}

pub(crate) fn parse(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?;
    Some(number.parse::<f64>().ok()? * factor)
}

fn age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    amount(deserializer, AGES, "\"30m\", \"12h\", \"7d\"").and_then(|seconds| {
        Duration::try_from_secs_f64(seconds).map(Some).map_err(serde::de::Error::custom)
    })
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    bytes(deserializer).map(Some)
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
        assert_eq!(age("\"90\"").as_secs(), 90);
        assert_eq!(age("\"1.5h\"").as_secs(), 5400);
        assert_eq!(age("\"7d\"").as_secs(), 604_800);
        let size = |text: &str| read(&format!("max_bytes = {text}")).unwrap().max_bytes.unwrap();
        assert_eq!(size("1000"), 1000);
        assert_eq!(size("\"10 GB\""), 10_000_000_000);
        assert_eq!(size("\"1GiB\""), 1 << 30);
        assert_eq!(size("\"0\""), 0);
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
            ("max_age = \"soon\"", "\"7d\""),
            ("max_age = \"7 GB\"", "\"7d\""),
            ("max_age = -1", "'-1'"),
            ("max_bytes = \"7d\"", "\"10 GB\""),
            ("max_bytes = \"1e5\"", "\"10 GB\""),
            ("max_bytes = \"1.2.3 GB\"", "\"10 GB\""),
            ("max_bytes = true", "expected a number"),
            ("max_jobs = -1", "-1"),
            ("max_hours = 1", "max_hours"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
