//! How long an idle model stays loaded.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{duration_of_seconds, parse_duration};

/// How long a model stays loaded after its last request has ended.
///
/// In JSON and TOML: a number of seconds, a text with a unit (`"10m"`), or `"forever"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// For this long. Zero unloads the model at once.
    For(Duration),
    /// Until it is unloaded by hand or makes way for another model.
    Forever,
}

/// A text that is not a [`KeepAlive`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a duration: try 0, 30s, 10m, 2h or forever")]
pub struct InvalidKeepAlive(String);

impl KeepAlive {
    /// The time in seconds; `None` is forever.
    pub fn seconds(self) -> Option<f64> {
        match self {
            Self::For(time) => Some(time.as_secs_f64()),
            Self::Forever => None,
        }
    }
}

impl FromStr for KeepAlive {
    type Err = InvalidKeepAlive;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "forever" {
            return Ok(Self::Forever);
        }
        parse_duration(text).map(Self::For).map_err(|_| InvalidKeepAlive(text.to_owned()))
    }
}

impl fmt::Display for KeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(time) => write!(f, "{}s", time.as_secs_f64()),
            Self::Forever => f.write_str("forever"),
        }
    }
}

impl Serialize for KeepAlive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::For(time) => serializer.serialize_f64(time.as_secs_f64()),
            Self::Forever => serializer.serialize_str("forever"),
        }
    }
}

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected seconds, a text such as \"10m\", or \"forever\"")]
        enum Said {
            Number(f64),
            Text(String),
        }
        let wrong = |error: InvalidKeepAlive| serde::de::Error::custom(error);
        match Said::deserialize(deserializer)? {
            Said::Number(seconds) => duration_of_seconds(seconds)
                .map(Self::For)
                .map_err(|_| wrong(InvalidKeepAlive(seconds.to_string()))),
            Said::Text(text) => text.parse().map_err(wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_seconds_a_text_with_a_unit_or_forever() {
        let read = |json: &str| serde_json::from_str::<KeepAlive>(json).map(KeepAlive::seconds);
        for (json, seconds) in [
            ("0", Some(0.0)),
            ("1.5", Some(1.5)),
            ("\"0\"", Some(0.0)),
            ("\"500ms\"", Some(0.5)),
            ("\"30s\"", Some(30.0)),
            ("\"10m\"", Some(600.0)),
            ("\"2h\"", Some(7200.0)),
            ("\"1d\"", Some(86_400.0)),
            ("\"1h30m\"", Some(5400.0)),
            ("\"forever\"", None),
        ] {
            assert_eq!(read(json).unwrap(), seconds, "{json}");
        }
        for json in ["-1", "1e10", "\"\"", "\"s\"", "\"-5\"", "\"1e3\"", "\"soon\"", "true"] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn it_survives_the_wire() {
        for keep in [KeepAlive::Forever, KeepAlive::For(Duration::from_millis(1500))] {
            let json = serde_json::to_string(&keep).unwrap();
            assert_eq!(serde_json::from_str::<KeepAlive>(&json).unwrap(), keep);
            assert_eq!(keep.to_string().parse(), Ok(keep));
        }
    }
}
