//! Which lines the output already has, and which ids the input repeats.

use std::collections::HashMap;

use crate::fingerprint::Fingerprint;

/// What is known about every id, in some 50 bytes each.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// For each key, the number of its input line, or 0 if only the output has it so far; and
    /// whether the output has it.
    keys: HashMap<Fingerprint, (u64, bool)>,
}

/// What to do with a line of the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// It needs an answer.
    New,
    /// The output has its answer or error.
    Answered,
    /// An earlier line has the same id, so this one gets an error.
    Repeats {
        /// The number of that line.
        first: u64,
    },
}

impl Seen {
    /// Records a line of the output. `repeated` is the number of an input line that repeated an id.
    pub(crate) fn in_output(&mut self, key: &str, repeated: Option<u64>) {
        self.keys.insert(fingerprint(key, repeated), (0, true));
    }

    /// Records a line of the input, and says what to do with it.
    pub(crate) fn meet(&mut self, key: &str, line: u64) -> Met {
        let entry = self.keys.entry(fingerprint(key, None)).or_insert((0, false));
        if entry.0 == 0 {
            entry.0 = line;
            return if entry.1 { Met::Answered } else { Met::New };
        }
        let first = entry.0;
        match self.keys.contains_key(&fingerprint(key, Some(line))) {
            true => Met::Answered,
            false => Met::Repeats { first },
        }
    }
}

fn fingerprint(key: &str, repeated: Option<u64>) -> Fingerprint {
    match repeated {
        None => Fingerprint::of(key),
        // The NUL keeps it apart from all ids that were not made to clash.
        Some(line) => Fingerprint::of(&format!("{key}\0{line}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_new_then_answered_and_its_id_is_not_anothers() {
        let mut seen = Seen::default();
        seen.in_output("a", None);
        seen.in_output("a", Some(5));
        assert_eq!(seen.meet("a", 1), Met::Answered);
        assert_eq!(seen.meet("b", 2), Met::New);
        assert_eq!(seen.meet("b", 3), Met::Repeats { first: 2 });
        assert_eq!(seen.meet("a", 4), Met::Repeats { first: 1 });
        assert_eq!(seen.meet("a", 5), Met::Answered);
    }
}
