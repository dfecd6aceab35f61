//! Remembers which keys a type reads.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use threadrunner_core::protocol::reads_key;

/// The most keys to remember. Lines with more different keys than that were made to have them.
const MOST: usize = 1024;

/// Which keys a `T` reads. [`reads_key`] is asked once for each key, not once for each key of a
/// million lines.
pub(crate) struct KnownKeys<T> {
    answers: HashMap<String, bool>,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> KnownKeys<T> {
    /// Whether a `T` makes use of this key.
    pub(crate) fn reads(&mut self, key: &str) -> bool {
        if let Some(answer) = self.answers.get(key) {
            return *answer;
        }
        let answer = reads_key::<T>(key);
        if self.answers.len() < MOST {
            self.answers.insert(key.to_owned(), answer);
        }
        answer
    }
}

impl<T> Default for KnownKeys<T> {
    fn default() -> Self {
        Self { answers: HashMap::new(), of: PhantomData }
    }
}

impl<T> fmt::Debug for KnownKeys<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownKeys").field("answers", &self.answers).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde::{Deserialize, Deserializer};
    use serde_json::{Map, Value};

    use super::*;

    thread_local! {
        static READ: Cell<usize> = const { Cell::new(0) };
    }

    /// Counts how many objects it is read from. It reads the key `a` only.
    struct Counted;

    impl<'de> Deserialize<'de> for Counted {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            READ.set(READ.get() + 1);
            match Map::<String, Value>::deserialize(from)?.contains_key("a") {
                true => Err(serde::de::Error::custom("no")),
                false => Ok(Self),
            }
        }
    }

    #[test]
    fn a_type_is_asked_once_for_each_key_of_a_hundred_thousand_lines() {
        let mut keys = KnownKeys::<Counted>::default();
        for _ in 0..100_000 {
            assert!(keys.reads("a") && !keys.reads("b") && !keys.reads("c"));
        }
        assert_eq!(READ.get(), 3);
    }

    #[test]
    fn keys_without_end_take_no_memory_without_end() {
        let mut keys = KnownKeys::<Counted>::default();
        for number in 0..2 * MOST {
            assert!(!keys.reads(&number.to_string()));
        }
        assert!(keys.reads("a"));
        assert_eq!(keys.answers.len(), MOST);
    }
}
