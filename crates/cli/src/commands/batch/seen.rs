//! Which lines are answered already, and which ids were met before.

use std::collections::HashMap;

use super::keys::Fingerprint;

/// What is known of every id, in some 50 bytes each.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The number of the line that has the key, or 0 while it is only in the output; and whether
    /// the output has it.
    keys: HashMap<Fingerprint, (u64, bool)>,
}

/// What is known of a line that is met in the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// It is to be answered.
    New,
    /// The output has its answer.
    Answered,
    /// An earlier line has the same id, and this one's error is to be written.
    Repeats {
        /// That line's number.
        first: u64,
    },
}

impl Seen {
    /// Notes a line of the output. `repeated` is the number of one that had another's id.
    pub(super) fn in_output(&mut self, key: &str, repeated: Option<u64>) {
        self.keys.insert(fingerprint(key, repeated), (0, true));
    }

    /// Notes a line of the input.
    pub(super) fn meet(&mut self, key: &str, line: u64) -> Met {
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
        // No id has a zero byte at its end and a number behind it but by intent.
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
