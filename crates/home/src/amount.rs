//! Durations and sizes as values in `config.toml`: a number, or a string with a unit.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use threadrunner_core::{duration_of_seconds, parse_duration, parse_size};

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number, or a text such as \"5m\" or \"10 GB\"")]
pub(crate) enum Amount {
    Number(f64),
    Text(String),
}

pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    match Amount::deserialize(deserializer)? {
        Amount::Number(seconds) => duration_of_seconds(seconds),
        Amount::Text(text) => parse_duration(&text),
    }
    .map_err(de::Error::custom)
}

pub(crate) fn some_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

pub(crate) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = match Amount::deserialize(deserializer)? {
        Amount::Number(number) => number.to_string(),
        Amount::Text(text) => text,
    };
    parse_size(&text).map_err(de::Error::custom)
}

pub(crate) fn some_bytes<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    bytes(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Both {
        #[serde(deserialize_with = "some_duration")]
        time: Option<Duration>,
        #[serde(deserialize_with = "some_bytes")]
        size: Option<u64>,
    }

    fn read(text: &str) -> Result<Both, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    #[test]
    fn they_are_numbers_or_have_a_unit() {
        let time = |text: &str| read(&format!("time = {text}")).unwrap().time.unwrap();
        assert_eq!(time("90").as_secs(), 90);
        assert_eq!(time("2.5").as_millis(), 2500);
        assert_eq!(time("\"90\"").as_secs(), 90);
        assert_eq!(time("\"5m\"").as_secs(), 300);
        let size = |text: &str| read(&format!("size = {text}")).unwrap().size.unwrap();
        assert_eq!(size("8000000000"), 8_000_000_000);
        assert_eq!(size("\"10 GB\""), 10_000_000_000);
        assert_eq!((size("0"), size("\"0\"")), (0, 0));
    }

    #[test]
    fn what_is_none_is_refused_with_an_example() {
        for (text, words) in [
            ("time = \"soon\"", "5m"),
            ("time = \"7 GB\"", "5m"),
            ("time = -1", "'-1'"),
            ("time = true", "expected a number"),
            ("size = \"7d\"", "\"10 GB\""),
            ("size = \"1e5\"", "\"10 GB\""),
            ("size = 70", "70 bytes"),
            ("size = -1", "'-1'"),
            ("size = true", "expected a number"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
