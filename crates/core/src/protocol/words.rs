//! Says what is wrong with a request, in the words of its author rather than serde's.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeOwned, Deserializer, Error, Expected, IntoDeserializer, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

use crate::open_enum::unknown_word;

/// Says why an object is not a `T`, naming the key if one alone is at fault.
pub fn explain<T: DeserializeOwned>(
    object: &Map<String, Value>,
    error: &serde_json::Error,
) -> String {
    // The error does not name the key. So each key is tried alone, with `op`, which selects
    // the type; `op` itself first.
    let alone = |(key, value): (&String, &Value)| {
        let how = object.get("op").map(|op| ("op".to_owned(), op.clone()));
        let pair = Map::from_iter(how.into_iter().chain([(key.clone(), value.clone())]));
        match T::deserialize(Json(&Value::Object(pair))) {
            Ok(_) | Err(Misfit::Missing(_)) => None,
            Err(misfit) => Some(format!("{key:?}: {misfit}")),
        }
    };
    let op = object.get_key_value("op");
    op.into_iter().chain(object).find_map(alone).unwrap_or_else(|| {
        let misfit = T::deserialize(Json(&Value::Object(object.clone()))).err();
        misfit.map_or_else(|| error.to_string(), |misfit| misfit.to_string())
    })
}

/// Why a value does not fit a type.
#[derive(Debug)]
enum Misfit {
    Missing(&'static str),
    Type { is: String, must_be: String },
    Other(String),
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(key) => write!(f, "{key:?} is missing"),
            Self::Type { is, must_be } => write!(f, "must be {must_be}, not {is}"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Misfit {}

impl Error for Misfit {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self::Other(why.to_string())
    }

    fn missing_field(key: &'static str) -> Self {
        Self::Missing(key)
    }

    fn invalid_type(is: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::Type { is: name_of(is), must_be: kind_of(&expected.to_string()).to_owned() }
    }

    fn invalid_value(is: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::Type { is: name_of(is), must_be: range_of(&expected.to_string()).to_owned() }
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::Other(format!("must be {expected}, not {length} of them"))
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::Other(unknown_word(word, known))
    }

    fn unknown_field(key: &str, _: &'static [&'static str]) -> Self {
        Self::Other(format!("has no key {key:?}"))
    }

    fn duplicate_field(key: &'static str) -> Self {
        Self::Other(format!("has the key {key:?} twice"))
    }
}

fn name_of(value: Unexpected<'_>) -> String {
    match value {
        Unexpected::Str(_) => "a text".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "an object".to_owned(),
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => format!("{value:?}"),
        other => other.to_string(),
    }
}

/// What a value of a wrong type must be.
fn kind_of(expected: &str) -> &str {
    match expected {
        "a string" => "a text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" | "an externally tagged enum" => "an object",
        "variant identifier" | "field identifier" => "a text",
        "string or map" => "a text or an object",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        "f32" | "f64" => "a number",
        other => other,
    }
}

/// What a value of the right type, but out of its range, must be.
fn range_of(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "i32" => "a whole number from -2147483648 to 2147483647",
        other => kind_of(other),
    }
}

/// Rewrites the message of a parser that tells no more than serde's text about a value of the wrong
/// type, or out of its range; returns other messages unchanged.
pub fn in_plain_words(said: &str) -> String {
    let of_kind = |kind| said.strip_prefix(kind)?.split_once(", expected ");
    let (is, must_be) = match (of_kind("invalid type: "), of_kind("invalid value: ")) {
        (Some((is, expected)), _) => (is, kind_of(expected)),
        (None, Some((is, expected))) => (is, range_of(expected)),
        (None, None) => return said.to_owned(),
    };
    let (kind, value) = is.split_once(' ').unwrap_or((is, ""));
    let is = match kind {
        "string" => "a text",
        "sequence" => "a list",
        "map" => "an object",
        "integer" | "boolean" => value.trim_matches('`'),
        "floating" => value.trim_start_matches("point ").trim_matches('`'),
        _ => is,
    };
    format!("must be {must_be}, not {is}")
}

/// Reads a value like [`Value`] itself, but fails with a [`Misfit`], which keeps what serde knows.
#[derive(Debug, Clone, Copy)]
struct Json<'a>(&'a Value);

impl<'de> Deserializer<'de> for Json<'_> {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(value), _) => visitor.visit_u64(value),
                (None, Some(value)) => visitor.visit_i64(value),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => visitor.visit_str(text),
            Value::Array(values) => {
                visitor.visit_seq(SeqDeserializer::new(values.iter().map(Json)))
            }
            Value::Object(object) => visitor.visit_map(entries(object)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Object(object) => {
                visitor.visit_enum(MapAccessDeserializer::new(entries(object)))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Misfit> for Json<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

fn entries<'de, 'a>(
    object: &'a Map<String, Value>,
) -> MapDeserializer<'de, impl Iterator<Item = (&'a str, Json<'a>)>, Misfit> {
    MapDeserializer::new(object.iter().map(|(key, value)| (key.as_str(), Json(value))))
}

/// Whether an object with this key can be read as a `T` that makes use of the key.
///
/// A struct that flattens others cannot list its keys, so this asks: no field accepts `[[]]`, so
/// reading it fails exactly if the key is used.
pub fn reads_key<T: DeserializeOwned>(key: &str) -> bool {
    let object = Map::from_iter([(key.to_owned(), Value::Array(vec![Value::Array(Vec::new())]))]);
    serde_json::from_value::<T>(Value::Object(object)).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Submission;
    use serde_json::json;

    #[test]
    fn it_is_said_which_key_must_be_what() {
        for (value, said) in [
            (json!({"prompt": 5}), "\"prompt\": must be a text, not 5"),
            (json!({"prompt": ["x"]}), "\"prompt\": must be a text, not a list"),
            (json!({"prompt": "x", "raw": "yes"}), "\"raw\": must be true or false, not a text"),
            (json!({"prompt": "x", "raw": 1.5}), "\"raw\": must be true or false, not 1.5"),
            (json!({"messages": "hi"}), "\"messages\": must be a list, not a text"),
            (
                json!({"prompt": "x", "timeout_s": {}}),
                "\"timeout_s\": must be a number, not an object",
            ),
            (
                json!({"prompt": "x", "max_attempts": true}),
                "\"max_attempts\": must be a whole number from 0, not true",
            ),
            (
                json!({"prompt": "x", "max_attempts": 5_000_000_000_u64}),
                "\"max_attempts\": must be a whole number from 0 to 4294967295, not 5000000000",
            ),
            (json!({"prompt": "x", "seed": "7"}), "\"seed\": must be a whole number, not a text"),
            (
                json!({"messages": [{"role": "cat", "content": ""}]}),
                "\"messages\": must be one of \"system\", \"user\"",
            ),
            (
                json!({"prompt": "x", "priority": "x"}),
                "\"priority\": must be one of \"batch\", \"normal\", \"interactive\", not \"x\"",
            ),
            (
                json!({"prompt": "x", "max_attempts": -1}),
                "\"max_attempts\": must be a whole number from 0 to 4294967295, not -1",
            ),
        ] {
            let error = serde_json::from_value::<Submission>(value.clone()).unwrap_err();
            let explained = explain::<Submission>(value.as_object().unwrap(), &error);
            assert!(explained.starts_with(said), "{explained}");
        }
    }

    #[test]
    fn every_key_of_a_submission_is_one_that_is_read() {
        let lines = include_str!("../../tests/golden/requests.jsonl").lines();
        let prompts: Vec<Map<String, Value>> = lines
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|object: &Map<_, _>| object.contains_key("prompt"))
            .collect();
        for key in prompts.iter().flat_map(Map::keys) {
            let envelope = ["v", "id", "op"].contains(&key.as_str());
            assert_eq!(reads_key::<Submission>(key), !envelope, "{key}");
        }
        assert!(reads_key::<Submission>("repeat_limit") && !reads_key::<Submission>("colour"));
    }
}
