//! Says what is wrong with a request, in the words of its author rather than serde's.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Says why an object is not a `T`, naming the key if one alone is at fault.
pub fn explain<T: DeserializeOwned>(
    object: &Map<String, Value>,
    error: &serde_json::Error,
) -> String {
    // The error does not name the key. So each key is tried alone, with `op`, which selects the
    // type.
    let alone = |(key, value): (&String, &Value)| {
        let how = object.get("op").map(|op| ("op".to_owned(), op.clone()));
        let pair = Map::from_iter(how.into_iter().chain([(key.clone(), value.clone())]));
        let said = serde_json::from_value::<T>(Value::Object(pair)).err()?.to_string();
        (!said.starts_with("missing field")).then(|| format!("{key:?}: {}", in_plain_words(&said)))
    };
    object.iter().find_map(alone).unwrap_or_else(|| in_plain_words(&error.to_string()))
}

/// Rewrites serde's message about a value of the wrong type, or out of its range; returns other
/// messages unchanged.
pub fn in_plain_words(said: &str) -> String {
    let kinds = ["invalid type: ", "invalid value: "];
    let wrong = kinds.into_iter().find_map(|kind| said.strip_prefix(kind));
    let Some((is, must_be)) = wrong.and_then(|said| said.split_once(", expected ")) else {
        return said.to_owned();
    };
    let (kind, value) = is.split_once(' ').unwrap_or((is, ""));
    let is = match kind {
        "string" => "a text".to_owned(),
        "sequence" => "a list".to_owned(),
        "map" => "an object".to_owned(),
        "integer" | "boolean" => value.trim_matches('`').to_owned(),
        "floating" => value.trim_start_matches("point ").trim_matches('`').to_owned(),
        _ => is.to_owned(),
    };
    let must_be = match must_be {
        "a string" => "a text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        "u32" if said.starts_with("invalid value") => "a whole number from 0 to 4294967295",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        "f32" | "f64" => "a number",
        other => other,
    };
    format!("must be {must_be}, not {is}")
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
                "\"messages\": unknown variant `cat`",
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
