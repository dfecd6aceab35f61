//! Lenient JSON parsing of parameters: accepts what OpenAI's API accepts.
//!
//! `3.0` is read as 3, because languages without integers write it so; a single stop text needs no
//! list; `null` is the same as leaving a parameter out; a seed has up to 64 bits.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, SeqAccess, Visitor};

use super::Parameters;

/// Reads an optional whole number from 0 to `u32::MAX`.
pub(super) fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    match from.deserialize_any(Scalar("a whole number"))? {
        None => Ok(None),
        Some(Number::Whole(number)) => u32::try_from(number)
            .map(Some)
            .map_err(|_| D::Error::custom(format!("{number} is not between 0 and {}", u32::MAX))),
        Some(Number::Float(number)) => {
            Err(D::Error::custom(format!("{number} is not a whole number from 0 to {}", u32::MAX)))
        }
    }
}

/// Reads an optional number.
pub(super) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f32>, D::Error> {
    Ok(from.deserialize_any(Scalar("a number"))?.map(|number| match number {
        Number::Whole(number) => number as f32,
        Number::Float(number) => number as f32,
    }))
}

/// Reads an optional seed.
pub(super) fn seed<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let (seed, number) = match from.deserialize_any(Scalar("a whole number"))? {
        None => return Ok(None),
        Some(Number::Whole(number)) => (Parameters::seed_of(number), number.to_string()),
        Some(Number::Float(number)) => (None, number.to_string()),
    };
    let wrong = || D::Error::custom(format!("{number} is not a whole number of at most 64 bits"));
    seed.map(Some).ok_or_else(wrong)
}

/// Reads one text, a list of texts, or none.
pub(super) fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    from.deserialize_any(Texts)
}

#[derive(Debug, PartialEq)]
enum Number {
    Whole(i128),
    /// Not whole, or too large to be exact.
    Float(f64),
}

/// Visits an optional number. Holds the name of what is expected, for the error message.
struct Scalar(&'static str);

impl Scalar {
    fn wrong<E: Error, T>(&self, what: &str) -> Result<T, E> {
        Err(E::custom(format!("must be {}, not {what}", self.0)))
    }
}

impl<'de> Visitor<'de> for Scalar {
    type Value = Option<Number>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(Number::Whole(number.into())))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(Number::Whole(number.into())))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        // Beyond this, an `f64` cannot represent every integer, so the number given may not be
        // exact.
        const EXACT: f64 = (1_u64 << f64::MANTISSA_DIGITS) as f64;
        let whole = number.fract() == 0.0 && number.abs() <= EXACT;
        Ok(Some(if whole { Number::Whole(number as i128) } else { Number::Float(number) }))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        self.wrong("a text")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        self.wrong(if value { "true" } else { "false" })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        self.wrong("a list")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        self.wrong("an object")
    }
}

struct Texts;

impl<'de> Visitor<'de> for Texts {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(vec![text.to_owned()])
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = list.next_element()? {
            texts.push(text);
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::Parameters;
    use crate::protocol::Submission;

    fn read(value: Value) -> Result<Parameters, String> {
        // In a request, serde reads the flattened parameters through a buffer.
        let submission: Result<Submission, _> = serde_json::from_value(value.clone());
        let plain: Result<Parameters, _> = serde_json::from_value(value);
        let submission = submission.map(|it| it.params).map_err(|error| error.to_string());
        let plain = plain.map_err(|error| error.to_string());
        assert_eq!(submission, plain);
        plain
    }

    #[test]
    fn whole_numbers_may_have_a_point() {
        let params = read(json!({"max_tokens": 3.0, "top_k": 40.0, "temperature": 1})).unwrap();
        assert_eq!((params.max_tokens, params.top_k), (Some(3), Some(40)));
        assert_eq!(params.temperature, Some(1.0));
    }

    #[test]
    fn null_is_what_was_left_out() {
        let nothing = json!({
            "max_tokens": null, "temperature": null, "top_k": null, "top_p": null, "min_p": null,
            "repeat_penalty": null, "repeat_limit": null, "seed": null, "stop": null,
        });
        assert_eq!(read(nothing).unwrap(), Parameters::default());
    }

    #[test]
    fn one_stop_text_needs_no_list() {
        assert_eq!(read(json!({"stop": "END"})).unwrap().stop, ["END"]);
        assert_eq!(read(json!({"stop": ["a", "b"]})).unwrap().stop, ["a", "b"]);
        assert!(read(json!({"stop": 5})).unwrap_err().contains("a text or a list of texts"));
    }

    #[test]
    fn a_seed_has_64_bits_and_small_ones_are_themselves() {
        let seed = |value: Value| read(json!({ "seed": value })).map(|params| params.seed.unwrap());
        assert_eq!(seed(json!(0)), Ok(0));
        assert_eq!(seed(json!(42.0)), Ok(42));
        assert_eq!(seed(json!(u32::MAX)), Ok(u32::MAX));
        assert_eq!(seed(json!(1_u64 << 32)), Ok(1));
        let large = [i64::MAX, i64::MIN, -1, -2, 1 << 40].map(|large| seed(json!(large)).unwrap());
        assert_eq!(large, [0x8000_0000, 0x8000_0000, 0, 1, 256]);
        assert!(seed(json!(u64::MAX)).is_ok());
        for wrong in [json!(0.5), json!(1e30), json!("7"), json!([7])] {
            assert!(seed(wrong.clone()).unwrap_err().contains("whole number"), "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_plain_words() {
        for (value, said) in [
            (json!({"max_tokens": -1}), "-1 is not between 0 and 4294967295"),
            (json!({"max_tokens": 3.5}), "3.5 is not a whole number from 0"),
            (json!({"max_tokens": "many"}), "must be a whole number, not a text"),
            (json!({"top_k": true}), "must be a whole number, not true"),
            (json!({"temperature": "hot"}), "must be a number, not a text"),
            (json!({"temperature": {}}), "must be a number, not an object"),
        ] {
            let error = read(value).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
