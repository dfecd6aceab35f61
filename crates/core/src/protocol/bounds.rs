//! Bounds on a request, checked before it costs memory and time.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{RequestId, invalid};
use crate::Failure;

/// The maximum number of JSON values in a frame. In memory, each takes many times the bytes that it
/// takes in the frame.
const VALUES: usize = 1 << 18;
/// The values of frames up to this many bytes are not counted.
const SHORT: usize = 1 << 20;
/// The maximum length of a string other than those for the model, in bytes.
const TEXT: usize = 4096;
/// The maximum length of a request's id, in bytes. Every frame of the answer repeats it.
const ID: usize = 256;
/// The maximum length of a message about a bad request, in characters. It may quote the request.
const MESSAGE: usize = 1000;

/// Refuses a frame with more than [`VALUES`] values. Lets a frame that is not JSON pass; parsing it
/// reports that.
pub(super) fn check_frame(frame: &[u8]) -> Result<(), Failure> {
    let mut values = 0;
    if frame.len() > SHORT {
        let counted =
            serde_json::Deserializer::from_slice(frame).deserialize_any(Count(&mut values));
        if counted.is_err() && values > VALUES {
            return Err(invalid(format!("the frame holds more than {VALUES} values")));
        }
    }
    Ok(())
}

pub(super) fn check_id(id: &RequestId) -> Result<(), Failure> {
    match id {
        RequestId::Text(text) if text.len() > ID => {
            Err(invalid(format!("\"id\" has {} bytes, but may have at most {ID}", text.len())))
        }
        RequestId::Text(_) | RequestId::Number(_) => Ok(()),
    }
}

/// Refuses strings that are too long for a name or a path, except the texts for the model. Does not
/// look into lists and objects.
pub(super) fn check_texts(request: &Map<String, Value>) -> Result<(), Failure> {
    let texts = request.iter().filter(|(key, _)| *key != "prompt" && *key != "system");
    let long = |value: &Value| value.as_str().map(str::len).filter(|&length| length > TEXT);
    match texts.filter_map(|(key, value)| Some((key, long(value)?))).next() {
        Some((key, length)) => {
            let key: String = key.chars().take(60).collect();
            Err(invalid(format!("\"{key}\" has {length} bytes, but may have at most {TEXT}")))
        }
        None => Ok(()),
    }
}

/// Cuts the failure's message to [`MESSAGE`] characters and an ellipsis.
pub(super) fn shorten(mut failure: Failure) -> Failure {
    if let Some((end, _)) = failure.message.char_indices().nth(MESSAGE) {
        failure.message.truncate(end);
        failure.message.push('…');
    }
    failure
}

/// Counts JSON values, and fails at the first one too many.
struct Count<'a>(&'a mut usize);

impl Count<'_> {
    fn one<E: Error>(self) -> Result<(), E> {
        *self.0 += 1;
        if *self.0 > VALUES { Err(E::custom("too many values")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.one()
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.one()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.one()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.one()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.one()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.one()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_element_seed(Count(self.0))?.is_some() {}
        self.one()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_key::<IgnoredAny>()?.is_some() {
            values.next_value_seed(Count(self.0))?;
        }
        self.one()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::*;
    use crate::ErrorCode;

    fn refusal(frame: &str) -> (Option<RequestId>, Failure) {
        Request::parse(frame.as_bytes()).unwrap_err()
    }

    #[test]
    fn very_many_values_are_refused_wherever_they_are() {
        let many = "0,".repeat(VALUES + SHORT);
        let keys: String = (0..=VALUES).map(|n| format!("\"{n}\":0,")).collect();
        for frame in [
            format!(r#"{{"v":1,"op":"ps","x":[{many}0]}}"#),
            format!(r#"{{"v":1,"op":"ps","x":{{{keys}"":0}}}}"#),
            format!(r#"{{"v":1,"op":"ps","x":[{}0]}}"#, "[],".repeat(VALUES)),
        ] {
            let (_, failure) = refusal(&(frame + &" ".repeat(SHORT)));
            assert_eq!(failure.code, ErrorCode::InvalidRequest);
            assert!(failure.message.contains("values"), "{failure}");
        }
        let prompt = "word, ".repeat(SHORT);
        let long = format!(r#"{{"v":1,"op":"run","prompt":"{prompt}","messages":[]}}"#);
        Request::parse(long.as_bytes()).unwrap();
    }

    #[test]
    fn long_ids_and_names_are_refused_and_not_repeated() {
        let long = "x".repeat(TEXT + 1);
        let (id, failure) = refusal(&format!(r#"{{"v":1,"op":"ps","id":"{long}"}}"#));
        assert_eq!((id, failure.code), (None, ErrorCode::InvalidRequest));
        for frame in [
            format!(r#"{{"v":1,"op":"load","model":"{long}"}}"#),
            format!(r#"{{"v":1,"op":"{long}"}}"#),
            format!(r#"{{"v":1,"op":"ps","{long}":"{long}"}}"#),
            format!(r#"{{"v":"{long}","op":"ps"}}"#),
            format!(r#"{{"v":1,"op":"jobs","states":["{long}"]}}"#),
        ] {
            let (_, failure) = refusal(&frame);
            assert!(failure.message.len() < 2 * MESSAGE, "{}", failure.message.len());
        }
        let said = format!(r#"{{"v":1,"op":"run","prompt":"{long}","system":"{long}"}}"#);
        Request::parse(said.as_bytes()).unwrap();
    }
}
