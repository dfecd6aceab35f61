//! Enums that are words on the wire or on disk, and can still be read when a newer program adds a
//! word.
//!
//! Answers, events and records may contain any word: an unknown one becomes `Unknown`. Orders
//! (requests, `job.json`) may not, because to guess the meaning would be to do something that
//! nobody asked for: [`known`] refuses an unknown word and names it.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// An enum whose values are words, as defined by `open_enum!`.
pub trait OpenEnum: Copy + 'static {
    /// All known values and their words.
    const WORDS: &'static [(Self, &'static str)];
    /// Words of earlier versions that are still read as these values.
    const EARLIER: &'static [(Self, &'static str)] = &[];
}

/// Defines an enum by its values and their words, with serde in both directions, `ALL`, `as_str`
/// and `Display`. `Value = "word" | "earlier"` also reads the word of an earlier version.
macro_rules! open_enum {
    ($(#[$meta:meta])* pub enum $name:ident {
        $($(#[$doc:meta])* $value:ident = $word:literal $(| $earlier:literal)*,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word $(, alias = $earlier)*)] $value,)*
            /// A word that this version does not know.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl $name {
            /// All known values.
            pub const ALL: &[Self] = &[$(Self::$value,)*];

            /// The word on the wire and on disk.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)*
                    Self::Unknown => "unknown",
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::open_enum::OpenEnum for $name {
            const WORDS: &'static [(Self, &'static str)] = &[$((Self::$value, $word),)*];
            const EARLIER: &'static [(Self, &'static str)] =
                &[$($((Self::$value, $earlier),)*)*];
        }
    };
}

pub(crate) use open_enum;

/// Reads a word that must be known; for `deserialize_with`.
///
/// # Errors
/// If the word is unknown. The error names it and lists the known ones.
pub fn known<'de, D: Deserializer<'de>, T: OpenEnum>(from: D) -> Result<T, D::Error> {
    find(&String::deserialize(from)?)
}

/// [`known`] for a field that may be absent.
///
/// # Errors
/// As [`known`].
pub fn known_if_any<'de, D: Deserializer<'de>, T: OpenEnum>(
    from: D,
) -> Result<Option<T>, D::Error> {
    Option::<String>::deserialize(from)?.map(|word| find(&word)).transpose()
}

/// [`known`] for a list.
///
/// # Errors
/// As [`known`].
pub fn all_known<'de, D: Deserializer<'de>, T: OpenEnum>(from: D) -> Result<Vec<T>, D::Error> {
    Vec::<String>::deserialize(from)?.iter().map(|word| find(word)).collect()
}

/// The value that a word means; `None` if it is unknown.
pub fn parse<T: OpenEnum>(word: &str) -> Option<T> {
    let found = T::WORDS.iter().chain(T::EARLIER).find(|(_, known)| *known == word);
    found.map(|(value, _)| *value)
}

/// The value that a word means; an error that names it if it is unknown.
pub(crate) fn find<T: OpenEnum, E: Error>(word: &str) -> Result<T, E> {
    parse(word).ok_or_else(|| {
        let words: Vec<_> = T::WORDS.iter().map(|(_, known)| *known).collect();
        E::custom(unknown_word(word, &words))
    })
}

/// Says that a word is not one of those that are known.
pub(crate) fn unknown_word(word: &str, known: &[impl fmt::Debug]) -> String {
    let known: Vec<_> = known.iter().map(|known| format!("{known:?}")).collect();
    format!("must be one of {}, not {word:?}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    use fruit::Fruit;

    #[expect(unreachable_pub, reason = "the macro's enums are public")]
    mod fruit {
        crate::open_enum::open_enum! {
            /// For these tests.
            pub enum Fruit {
                /// Red or green.
                Apple = "apple",
                /// Yellow.
                Quince = "quince" | "golden apple",
            }
        }
    }

    #[derive(Deserialize)]
    struct Order {
        #[serde(deserialize_with = "known")]
        one: Fruit,
        #[serde(default, deserialize_with = "known_if_any")]
        other: Option<Fruit>,
        #[serde(default, deserialize_with = "all_known")]
        more: Vec<Fruit>,
    }

    #[test]
    fn a_record_takes_any_word_and_an_order_only_those_it_knows() {
        for (value, word) in Fruit::WORDS {
            assert_eq!(serde_json::to_value(value).unwrap(), *word);
            assert_eq!((value.as_str(), value.to_string()), (*word, (*word).to_owned()));
            assert_eq!(serde_json::from_value::<Fruit>((*word).into()).unwrap(), *value);
        }
        assert_eq!(Fruit::ALL, [Fruit::Apple, Fruit::Quince]);
        assert_eq!(serde_json::from_value::<Fruit>("medlar".into()).unwrap(), Fruit::Unknown);

        let order = json!({"one": "apple", "other": null, "more": ["quince", "golden apple"]});
        let order: Order = serde_json::from_value(order).unwrap();
        assert_eq!((order.one, order.other), (Fruit::Apple, None));
        assert_eq!(order.more, [Fruit::Quince, Fruit::Quince]);
        for order in [
            json!({"one": "medlar"}),
            json!({"one": "apple", "other": "medlar"}),
            json!({"one": "apple", "more": ["medlar"]}),
            json!({"one": "unknown"}),
        ] {
            let refused = serde_json::from_value::<Order>(order).err().unwrap().to_string();
            assert!(refused.starts_with("must be one of \"apple\", \"quince\", not "), "{refused}");
        }
    }
}
