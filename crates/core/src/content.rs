//! What a message says: text, or parts of several kinds, in the form of OpenAI's chat API.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::tagged::Tagged;

/// The content of a message.
///
/// A list of text parts alone is read as their text, so that the same words have one form. Text is
/// written as a string.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Text.
    Text(String),
    /// Parts, not all of which are text.
    Parts(Box<[Part]>),
}

/// A part of a message. The key `"type"` names the variant.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// An image.
    ImageUrl {
        /// The image.
        image_url: Image,
    },
    /// A kind of part that this version does not know, as it was written.
    #[serde(untagged)]
    Unknown(Map<String, Value>),
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The image itself, as a data URL.
    pub url: String,
    /// How closely to look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Content {
    /// The content that consists of these parts.
    pub fn of(parts: Vec<Part>) -> Self {
        if !parts.iter().all(|part| matches!(part, Part::Text { .. })) {
            return Self::Parts(parts.into());
        }
        let text = |part| if let Part::Text { text } = part { text } else { String::new() };
        let mut texts = parts.into_iter().map(text);
        let first = texts.next().unwrap_or_default();
        Self::Text(texts.fold(first, |all, text| all + &text))
    }

    fn split(&self) -> (Option<&String>, &[Part]) {
        match self {
            Self::Text(text) => (Some(text), &[]),
            Self::Parts(parts) => (None, parts),
        }
    }

    /// Its parts that are not text.
    pub fn others(&self) -> impl Iterator<Item = &Part> {
        self.split().1.iter().filter(|part| !matches!(part, Part::Text { .. }))
    }

    /// Its texts.
    pub fn texts(&self) -> impl Iterator<Item = &String> {
        let (alone, parts) = self.split();
        alone.into_iter().chain(parts.iter().filter_map(Part::text))
    }

    /// Its texts, to change them.
    pub fn texts_mut<'a>(&'a mut self) -> impl Iterator<Item = &'a mut String> {
        let (alone, parts): (_, &mut [Part]) = match self {
            Self::Text(text) => (Some(text), &mut []),
            Self::Parts(parts) => (None, parts),
        };
        let text = |part: &'a mut Part| match part {
            Part::Text { text } => Some(text),
            Part::ImageUrl { .. } | Part::Unknown(_) => None,
        };
        alone.into_iter().chain(parts.iter_mut().filter_map(text))
    }

    /// The same content after this text and a line break.
    #[must_use]
    pub fn after(self, text: &str) -> Self {
        match self {
            Self::Text(own) => Self::Text(format!("{text}\n{own}")),
            Self::Parts(parts) => {
                let first = Part::Text { text: format!("{text}\n") };
                Self::Parts(std::iter::once(first).chain(parts).collect())
            }
        }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Parts(_) => false,
        }
    }

    /// Its size in bytes, without what holds its parts together.
    pub fn bytes(&self) -> usize {
        let other = |part: &Part| match part {
            Part::Text { .. } => 0,
            Part::ImageUrl { image_url } => image_url.url.len(),
            Part::Unknown(object) => crate::json_length(object),
        };
        self.texts().map(String::len).chain(self.split().1.iter().map(other)).sum()
    }
}

impl Part {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&String> {
        if let Self::Text { text } = self { Some(text) } else { None }
    }
}

impl Default for Content {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl PartialEq<&str> for Content {
    fn eq(&self, text: &&str) -> bool {
        matches!(self, Self::Text(own) if own == text)
    }
}

/// The text, with a word in brackets in place of each part that is not text.
impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Parts(parts) => parts.iter().try_for_each(|part| match part {
                Part::Text { text } => f.write_str(text),
                Part::ImageUrl { .. } => f.write_str("[image]"),
                Part::Unknown(_) => f.write_str("[unknown]"),
            }),
        }
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => to.serialize_str(text),
            Self::Parts(parts) => parts.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(text.into())
            }

            fn visit_string<E>(self, text: String) -> Result<Content, E> {
                Ok(text.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = list.next_element()? {
                    parts.push(part);
                }
                Ok(Content::of(parts))
            }
        }

        from.deserialize_any(Read)
    }
}

impl Tagged for Part {
    const KINDS: &'static [&'static str] = &["text", "image_url"];

    fn read(kind: &str, mut object: Map<String, Value>) -> Result<Self, serde_json::Error> {
        let mut key = |name: &str| object.remove(name).unwrap_or_default();
        match kind {
            "text" => Ok(Self::Text { text: serde_json::from_value(key("text"))? }),
            "image_url" => {
                Ok(Self::ImageUrl { image_url: serde_json::from_value(key("image_url"))? })
            }
            _ => Ok(Self::Unknown(object)),
        }
    }

    fn unknown(&self) -> Option<&Map<String, Value>> {
        if let Self::Unknown(object) = self { Some(object) } else { None }
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::open(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Content {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn text_costs_no_more_than_a_string_and_is_written_as_one() {
        assert_eq!(size_of::<Content>(), size_of::<String>());
        let text = read(json!("Hello"));
        assert_eq!(
            (&text, serde_json::to_value(&text).unwrap()),
            (&"Hello".into(), json!("Hello"))
        );
        let parts = json!([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]);
        assert_eq!(read(parts), "Hello");
        assert_eq!(read(json!([])), "");
        let text: Content = serde_json::from_str("\"a\\nb\"").unwrap();
        assert_eq!(text, "a\nb");
    }

    #[test]
    fn parts_keep_their_order_and_what_nobody_knows() {
        let parts = json!([
            {"type": "text", "text": "What is "},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
            {"type": "input_audio", "input_audio": {"format": "wav"}},
            {"type": "text", "text": "?"},
        ]);
        let mut content = read(parts.clone());
        assert_eq!(serde_json::to_value(&content).unwrap(), parts);
        assert_eq!(content.texts().map(String::as_str).collect::<Vec<_>>(), ["What is ", "?"]);
        assert_eq!(content.others().count(), 2);
        assert_eq!(content.to_string(), "What is [image][unknown]?");
        assert!(content.bytes() > 35 && !content.is_empty());
        content.texts_mut().for_each(|text| *text = text.to_uppercase());
        assert_eq!(content.after("Say:").to_string(), "Say:\nWHAT IS [image][unknown]?");
    }

    #[test]
    fn what_is_neither_text_nor_a_part_is_refused() {
        for (value, said) in [
            (json!(5), "expected a text or a list of parts"),
            (json!(["x"]), "expected a map"),
            (json!([{"text": "x"}]), "it needs a \"type\""),
            (json!([{"type": "text"}]), "expected a string"),
            (json!([{"type": "image_url", "image_url": {}}]), "missing field `url`"),
        ] {
            let error = serde_json::from_value::<Content>(value.clone()).unwrap_err().to_string();
            assert!(error.contains(said), "{value}: {error}");
        }
    }
}
