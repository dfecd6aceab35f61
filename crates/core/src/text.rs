//! Streaming text: assembles bytes into whole characters and ends at stop texts.
//!
//! Tokens split characters, and stop texts span tokens. [`Utf8Stream`] and [`StopMatcher`] hold
//! back only what is still undecided, so the resulting text does not depend on how the input is
//! split.

/// Assembles bytes into whole characters.
///
/// Invalid UTF-8 becomes U+FFFD, exactly as [`String::from_utf8_lossy`] would replace it in all the
/// bytes together. Holds back at most three bytes, the beginning of a character.
#[derive(Debug, Clone, Default)]
pub struct Utf8Stream {
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Takes `bytes` and appends all characters that are now complete to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        if self.pending.is_empty() {
            let tail = decode(bytes, out);
            self.pending.extend_from_slice(tail);
        } else {
            self.pending.extend_from_slice(bytes);
            let tail = decode(&self.pending, out).len();
            self.pending.drain(..self.pending.len() - tail);
        }
    }

    /// Ends the stream: an incomplete character becomes U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Appends the characters in `bytes` to `out`; returns the beginning of an incomplete last one.
fn decode<'a>(bytes: &'a [u8], out: &mut String) -> &'a [u8] {
    let mut end = 0;
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        end += chunk.valid().len() + chunk.invalid().len();
        if chunk.invalid().is_empty() {
            continue;
        }
        let unfinished = end == bytes.len()
            && std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
        if unfinished {
            return chunk.invalid();
        }
        out.push(char::REPLACEMENT_CHARACTER);
    }
    &[]
}

/// Ends a text before the first of several stop texts.
///
/// The stop text that completes first wins; of several that complete at the same place, the
/// longest. So a stop is reported with the piece that completes it, and the text before it does not
/// depend on how the text was split.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    /// A matcher for these stop texts. Ignores empty ones.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, held: String::new() }
    }

    /// Takes `text` and appends to `out` whatever can no longer be part of a stop text. Returns
    /// true once a stop text is complete: then `out` has all the text before it, and nothing may
    /// follow.
    pub fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.stops.is_empty() {
            out.push_str(text);
            return false;
        }
        self.held.push_str(text);
        let found = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop).map(|start| (start + stop.len(), start)))
            .min();
        if let Some((_, start)) = found {
            out.push_str(&self.held[..start]);
            self.held.clear();
            return true;
        }
        let keep_from = self.first_possible_stop();
        out.push_str(&self.held[..keep_from]);
        self.held.drain(..keep_from);
        false
    }

    /// Ends the text: what was held back is not a stop text.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    /// The start of the longest suffix of the held text that begins a stop text.
    fn first_possible_stop(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = (self.held.len() + 1).saturating_sub(longest);
        (from..self.held.len())
            .find(|&start| {
                self.held.is_char_boundary(start)
                    && self.stops.iter().any(|stop| stop.starts_with(&self.held[start..]))
            })
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(pieces: &[&[u8]]) -> String {
        let (mut stream, mut out) = (Utf8Stream::default(), String::new());
        for piece in pieces {
            stream.push(piece, &mut out);
        }
        stream.finish(&mut out);
        out
    }

    /// The resulting text, and whether a stop text ended it.
    fn stopped(stops: &[String], pieces: &[&str]) -> (String, bool) {
        let (mut matcher, mut out) = (StopMatcher::new(stops), String::new());
        for piece in pieces {
            if matcher.push(piece, &mut out) {
                return (out, true);
            }
        }
        matcher.finish(&mut out);
        (out, false)
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_character_appears_with_its_last_byte() {
        let (mut stream, mut out) = (Utf8Stream::default(), String::new());
        for byte in &"🙂".as_bytes()[..3] {
            stream.push(&[*byte], &mut out);
            assert_eq!(out, "");
        }
        stream.push(&"🙂".as_bytes()[3..], &mut out);
        assert_eq!(out, "🙂");
    }

    #[test]
    fn a_byte_that_begins_nothing_is_replaced_at_once() {
        let (mut stream, mut out) = (Utf8Stream::default(), String::new());
        stream.push(b"a\xffb\xe2\x82", &mut out);
        assert_eq!(out, "a\u{fffd}b");
        stream.push(b"c", &mut out);
        assert_eq!(out, "a\u{fffd}b\u{fffd}c");
    }

    #[test]
    fn the_beginning_of_a_character_at_the_end_is_replaced() {
        assert_eq!(joined(&[b"a\xf0\x9f"]), "a\u{fffd}");
    }

    #[test]
    fn only_what_may_begin_a_stop_is_held_back() {
        let mut matcher = StopMatcher::new(&strings(&["\n\nUser"]));
        let mut out = String::new();
        assert!(!matcher.push("Hi\n", &mut out));
        assert_eq!(out, "Hi");
        assert!(!matcher.push("there\n\n", &mut out));
        assert_eq!(out, "Hi\nthere");
        assert!(matcher.push("User: more", &mut out));
        assert_eq!(out, "Hi\nthere");
    }

    #[test]
    fn the_stop_complete_first_wins_and_of_two_the_longest() {
        assert_eq!(stopped(&strings(&["abcd", "bc"]), &["xabcd"]), ("xa".into(), true));
        assert_eq!(stopped(&strings(&["bc", "abc"]), &["xabc"]), ("x".into(), true));
    }

    #[test]
    fn what_only_looked_like_a_stop_comes_out() {
        assert_eq!(stopped(&strings(&["END"]), &["the E", "N"]), ("the EN".into(), false));
    }

    #[test]
    fn an_empty_stop_stops_nothing() {
        assert_eq!(stopped(&strings(&[""]), &["a", "b"]), ("ab".into(), false));
    }

    /// [`StopMatcher`]'s rule, applied to a whole text.
    fn reference(stops: &[String], text: &str) -> (String, bool) {
        let ends = |end: usize| stops.iter().filter(move |stop| text[..end].ends_with(*stop));
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            if let Some(length) = ends(end).map(String::len).max() {
                return (text[..end - length].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    fn cut<T>(all: &[T], cuts: &[usize]) -> Vec<usize> {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (all.len() + 1)).collect();
        places.extend([0, all.len()]);
        places.sort_unstable();
        places
    }

    proptest! {
        #[test]
        fn any_cutting_of_bytes_gives_the_lossy_text(
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), prop::sample::select(&b"a\xe2\x82\xac\xf0\x9f\x99\x82\xc3"[..])],
                0..40,
            ),
            cuts in prop::collection::vec(any::<usize>(), 0..10),
        ) {
            let places = cut(&bytes, &cuts);
            let pieces: Vec<&[u8]> = places.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(joined(&pieces), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn any_cutting_of_text_stops_at_the_same_place(
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            text in "[abcé]{0,30}",
            cuts in prop::collection::vec(any::<usize>(), 0..10),
        ) {
            let characters: Vec<char> = text.chars().collect();
            let places = cut(&characters, &cuts);
            let pieces: Vec<String> =
                places.windows(2).map(|w| characters[w[0]..w[1]].iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(stopped(&stops, &pieces), reference(&stops, &text));
        }
    }
}
