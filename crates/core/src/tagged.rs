//! Objects whose key `"type"` says what they are, and that can be of a kind from the future.
//!
//! Like [`mod@crate::open_enum`], for values that are more than a word: answers and records keep an
//! object of an unknown kind as it is; orders refuse it and name the kind.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// The key that says what an object is.
const TYPE: &str = "type";

/// An object whose key `"type"` names its kind.
pub(crate) trait Tagged: Sized {
    /// The kinds that this version knows.
    const KINDS: &'static [&'static str];

    /// Reads an object of this kind; one of an unknown kind is kept as it is.
    fn read(kind: &str, object: Map<String, Value>) -> Result<Self, serde_json::Error>;

    /// The object, if its kind is unknown.
    fn unknown(&self) -> Option<&Map<String, Value>>;

    /// Reads an object of any kind.
    fn open<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let object = Map::<String, Value>::deserialize(from)?;
        let Some(kind) = object.get(TYPE).and_then(Value::as_str).map(str::to_owned) else {
            return Err(D::Error::custom("it needs a \"type\" that is a text"));
        };
        Self::read(&kind, object).map_err(|error| D::Error::custom(format!("`{kind}`: {error}")))
    }

    /// Checks that its kind is known. The error names it and lists the known ones.
    fn known(&self) -> Result<(), String> {
        let Some(object) = self.unknown() else { return Ok(()) };
        let kind = object.get(TYPE).and_then(Value::as_str).unwrap_or_default();
        let known: Vec<_> = Self::KINDS.iter().map(|kind| format!("`{kind}`")).collect();
        Err(format!("unknown type `{kind}`, expected one of {}", known.join(", ")))
    }
}
