//! How wide text is on a terminal, in cells. A character takes zero, one or two.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::terminal::glyphs;

/// The width of a text, in cells.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The width of a character, in cells; zero for a control character.
pub(crate) fn width_of(character: char) -> usize {
    character.width().unwrap_or(0)
}

/// The text if it fits in `most` cells, else its beginning and an ellipsis.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let mut short = String::new();
    let mut room = most.saturating_sub(1);
    for character in text.chars() {
        match room.checked_sub(width_of(character)) {
            Some(less) => room = less,
            None => break,
        }
        short.push(character);
    }
    if most > 0 {
        short.push(glyphs().more);
    }
    short
}

/// The text in lines of at most `most` cells, broken between words. A longer word is broken, too.
pub(crate) fn lines(text: &str, most: usize) -> Vec<String> {
    let most = most.max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let mut line = lines.pop().unwrap_or_default();
        let space = usize::from(!line.is_empty());
        if width(&line) + space + width(word) <= most {
            line.push_str(&" ".repeat(space));
            line.push_str(word);
            lines.push(line);
            continue;
        }
        if !line.is_empty() {
            lines.push(line);
        }
        let mut part = String::new();
        for character in word.chars() {
            if !part.is_empty() && width(&part) + width_of(character) > most {
                lines.push(std::mem::take(&mut part));
            }
            part.push(character);
        }
        lines.push(part);
    }
    lines
}

/// A text that begins in column `start`, with further lines indented by `indent`. Lines break
/// between words; a word longer than a line stays whole, so that a path can be copied. Without
/// `columns`, the text is one line.
pub(crate) fn hanging(text: &str, start: usize, indent: usize, columns: Option<usize>) -> String {
    let Some(columns) = columns else { return text.to_owned() };
    let mut out = String::new();
    let mut column = start;
    for word in text.split(' ') {
        let space = usize::from(!out.is_empty());
        if column + space + width(word) > columns && column > indent {
            out.push_str(&format!("\n{}", " ".repeat(indent)));
            column = indent;
        } else {
            out.push_str(&" ".repeat(space));
            column += space;
        }
        out.push_str(word);
        column += width(word);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_no_character() {
        assert_eq!((width("abc"), width("日本"), width("e\u{301}"), width("🦀")), (3, 4, 1, 2));
    }

    #[test]
    fn what_is_shortened_never_takes_more_room() {
        for (text, most, short) in [
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
            ("e\u{301}e\u{301}e", 2, "e\u{301}…"),
        ] {
            assert_eq!(shortened(text, most), short);
            assert!(width(&shortened(text, most)) <= most);
        }
    }

    #[test]
    fn what_goes_on_in_further_lines_is_indented() {
        assert_eq!(hanging("one two three", 4, 2, Some(11)), "one two\n  three");
        assert_eq!(hanging("/a/very/long/path", 4, 2, Some(9)), "\n  /a/very/long/path");
        assert_eq!(hanging("one two", 4, 2, None), "one two");
    }

    #[test]
    fn words_are_wrapped_and_not_cut() {
        assert_eq!(lines("one two three", 7), ["one two", "three"]);
        assert_eq!(lines("日本 語", 5), ["日本", "語"]);
        assert_eq!(lines("a-very-long-word b", 6), ["a-very", "-long-", "word b"]);
        assert_eq!(lines("", 5), [""]);
        assert!(lines("日本語", 1).iter().all(|line| width(line) <= 2));
    }
}
