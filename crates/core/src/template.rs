//! References to other jobs' answers in a prompt: `{{result:ID}}`.
//!
//! A reference has exactly one form: two braces, `result:`, a job's id (or a prefix or suffix of
//! one, or the word `last`), and two braces, without spaces. Anything else is plain text, so
//! nothing needs escaping.

use crate::{ErrorCode, Failure, JobId, JobSelector};

/// The maximum number of references in all texts of a prompt.
pub const MOST: usize = 256;

const OPEN: &str = "{{result:";
const CLOSE: &str = "}}";

/// A piece of a text that may contain references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    /// The name in a reference.
    Reference(&'a str),
}

struct Pieces<'a> {
    rest: &'a str,
    next: Option<&'a str>,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if let Some(name) = self.next.take() {
            return Some(Piece::Reference(name));
        }
        if self.rest.is_empty() {
            return None;
        }
        let text = self.rest;
        for (at, _) in text.match_indices(OPEN) {
            if let Some(name) = name_at_start(&text[at + OPEN.len()..]) {
                self.rest = &text[at + OPEN.len() + name.len() + CLOSE.len()..];
                if at == 0 {
                    return Some(Piece::Reference(name));
                }
                self.next = Some(name);
                return Some(Piece::Text(&text[..at]));
            }
        }
        self.rest = "";
        Some(Piece::Text(text))
    }
}

/// The name at the start of `text`, if the closing braces follow it.
fn name_at_start(text: &str) -> Option<&str> {
    let in_an_id = |byte: &u8| byte.is_ascii_digit() || *byte == b'_';
    let length = match text.strip_prefix(JobSelector::LAST) {
        Some(_) => JobSelector::LAST.len(),
        // Stops after an id's length, so that a text of unclosed references takes linear time.
        None => text.bytes().take(JobId::MAX_LEN + 1).take_while(in_an_id).count(),
    };
    let fits = (1..=JobId::MAX_LEN).contains(&length) && text[length..].starts_with(CLOSE);
    fits.then(|| &text[..length])
}

fn pieces(text: &str) -> Pieces<'_> {
    Pieces { rest: text, next: None }
}

/// The names in the references of a text, in order.
pub fn references(text: &str) -> impl Iterator<Item = &str> {
    pieces(text).filter_map(|piece| match piece {
        Piece::Reference(name) => Some(name),
        Piece::Text(_) => None,
    })
}

/// Splits a text after `bytes` bytes into the part that is read for references and the rest. With
/// `None`, all of it is read.
///
/// # Errors
/// If `bytes` is past the end of the text or inside a character.
pub fn read_part(text: &str, bytes: Option<u64>) -> Result<(&str, &str), Failure> {
    let Some(bytes) = bytes else { return Ok((text, "")) };
    let cut = usize::try_from(bytes).ok().and_then(|bytes| text.split_at_checked(bytes));
    cut.ok_or_else(|| {
        Failure::new(
            ErrorCode::InvalidRequest,
            format!(
                "template_bytes is {bytes}, but must be a character boundary in the prompt, \
                 which has {} bytes",
                text.len()
            ),
        )
    })
}

/// The failure for a prompt with more than [`MOST`] references.
pub fn too_many() -> Failure {
    Failure::new(ErrorCode::InvalidRequest, format!("more than {MOST} references to other jobs"))
        .hint("let intermediate jobs gather some of the answers")
}

/// Replaces each reference by what `with` returns for its name. The replacement is not scanned for
/// references.
///
/// # Errors
/// The first error of `with`.
pub fn replace<E>(
    text: &str,
    mut with: impl FnMut(&str) -> Result<String, E>,
) -> Result<String, E> {
    let mut replaced = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => replaced.push_str(text),
            Piece::Reference(name) => replaced.push_str(&with(name)?),
        }
    }
    Ok(replaced)
}

/// The reference to `name`, as written in a prompt.
pub fn reference(name: &str) -> String {
    format!("{OPEN}{name}{CLOSE}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(text: &str) -> Vec<&str> {
        references(text).collect()
    }

    fn shout(text: &str) -> String {
        replace(text, |name| Ok::<_, ()>(format!("<{name}>"))).unwrap()
    }

    #[test]
    fn a_reference_is_of_exactly_one_form() {
        assert_eq!(names("{{result:17_1}}"), ["17_1"]);
        assert_eq!(names("a {{result:1}}{{result:_2}} b {{result:last}}"), ["1", "_2", "last"]);
        assert_eq!(names("{{{result:1}}}"), ["1"]);
        assert_eq!(names("{{result:{{result:1}}}}"), ["1"]);
        for other in [
            "{{result:}}",
            "{{result:1}",
            "{{result:1 }}",
            "{{ result:1}}",
            "{{Result:1}}",
            "{{result:lastly}}",
            "{{result:x}}",
            "{{result:١}}",
            "{result:1}",
            "{{results:1}}",
            "",
        ] {
            assert_eq!(names(other), [] as [&str; 0], "{other}");
            assert_eq!(shout(other), other);
        }
        assert_eq!(names(&reference(&"9".repeat(JobId::MAX_LEN))).len(), 1);
        assert!(names(&reference(&"9".repeat(JobId::MAX_LEN + 1))).is_empty());
    }

    #[test]
    fn what_takes_a_references_place_is_not_looked_at_again() {
        let text = replace("a {{result:1}} b", |_| Ok::<_, ()>(reference("2")));
        assert_eq!(text.unwrap(), "a {{result:2}} b");
        assert_eq!(shout("{{{result:1}}} é"), "{<1>} é");
    }

    #[test]
    fn what_is_not_to_be_read_is_cut_off_between_characters() {
        assert_eq!(read_part("aé b", None).unwrap(), ("aé b", ""));
        assert_eq!(read_part("aé b", Some(3)).unwrap(), ("aé", " b"));
        assert_eq!(read_part("aé b", Some(0)).unwrap(), ("", "aé b"));
        assert_eq!(read_part("aé b", Some(5)).unwrap(), ("aé b", ""));
        for beyond in [2, 6, u64::MAX] {
            let failure = read_part("aé b", Some(beyond)).unwrap_err();
            assert!(failure.message.contains(&beyond.to_string()), "{failure}");
        }
    }

    #[test]
    fn the_first_refusal_ends_it() {
        let refused =
            replace("{{result:1}} {{result:2}}", |name| Err::<String, _>(name.to_owned()));
        assert_eq!(refused.unwrap_err(), "1");
    }

    proptest! {
        #[test]
        fn a_text_is_its_pieces(text in r"([{}]|\{\{result:|\}\}|[0-9_]|last|é| ){0,40}") {
            let whole = replace(&text, |name| Ok::<_, ()>(reference(name))).unwrap();
            prop_assert_eq!(whole, text);
        }
    }
}
