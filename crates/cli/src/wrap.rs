//! Wraps streamed text into lines that break between words.

use crate::cells;
use crate::markdown::{Markdown, Piece};

/// Prepares streamed text for a terminal: styles its Markdown, and wraps lines between words.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    wrapper: Wrapper,
    /// `None` leaves Markdown as it is.
    markdown: Option<Markdown>,
}

impl Screen {
    pub(crate) fn new(markdown: bool) -> Self {
        Self { wrapper: Wrapper::default(), markdown: markdown.then(Markdown::default) }
    }

    /// Adds text; returns what to write to a terminal of `columns` now.
    pub(crate) fn push(&mut self, text: &str, columns: usize) -> String {
        match &mut self.markdown {
            Some(markdown) => {
                let pieces = markdown.push(text);
                self.lay(pieces, columns)
            }
            None => self.wrapper.push(text, columns),
        }
    }

    /// Whether Markdown is styled.
    pub(crate) fn sets_off(&self) -> bool {
        self.markdown.is_some()
    }

    /// Ends the text; returns what was held back.
    pub(crate) fn finish(&mut self, columns: usize) -> String {
        let pieces = self.markdown.as_mut().map(Markdown::finish).unwrap_or_default();
        self.lay(pieces, columns)
    }

    fn lay(&mut self, pieces: Vec<Piece>, columns: usize) -> String {
        let mut out = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.wrapper.push_to(&mut out, &text, columns),
                Piece::Style(style) => out.push_str(style),
            }
        }
        out
    }
}

/// Breaks lines before they reach the terminal's edge. Text is shown at once; if it turns out to be
/// the beginning of a word that does not fit, it is erased and written again on the next line.
#[derive(Debug, Default)]
pub(crate) struct Wrapper {
    /// The column of the next character.
    column: usize,
    /// What has been written of the current word.
    word: String,
    /// The beginning of the line, which decides whether it may be broken.
    head: String,
    /// Within a fenced block of code.
    fenced: bool,
    /// The word is longer than a line: the terminal breaks it.
    overlong: bool,
}

impl Wrapper {
    /// Adds text; returns what to write to a terminal of `columns` now.
    pub(crate) fn push(&mut self, text: &str, columns: usize) -> String {
        let mut out = String::new();
        self.push_to(&mut out, text, columns);
        out
    }

    fn push_to(&mut self, out: &mut String, text: &str, columns: usize) {
        // The last column stays free: terminals wrap there only when the next character comes.
        let room = columns.saturating_sub(1).max(1);
        for character in text.chars() {
            match character {
                '\n' => self.end_line(out),
                ' ' | '\t' => self.space(out, character, columns, room),
                // Half of a line ending from other systems, and meaningless here.
                '\r' => {}
                // An answer must not control the terminal.
                character if character.is_control() => self.put(out, '\u{fffd}', room),
                character => self.put(out, character, room),
            }
        }
    }

    fn end_line(&mut self, out: &mut String) {
        out.push('\n');
        if self.head.trim_start().starts_with("```") {
            self.fenced = !self.fenced;
        }
        *self = Self { fenced: self.fenced, ..Self::default() };
    }

    fn space(&mut self, out: &mut String, space: char, columns: usize, room: usize) {
        self.note(space);
        self.word.clear();
        if self.overlong {
            self.overlong = false;
            self.column %= columns.max(1);
        }
        let next = if space == '\t' { (self.column / 8 + 1) * 8 } else { self.column + 1 };
        if next > room && !self.is_verbatim() {
            // The line break replaces the space.
            self.break_line(out, room);
        } else {
            out.push(space);
            self.column = next;
        }
    }

    fn put(&mut self, out: &mut String, character: char, room: usize) {
        self.note(character);
        let cells = cells::width_of(character);
        if self.is_verbatim() || self.overlong {
            out.push(character);
            self.column += cells;
            return;
        }
        // Wide characters belong to scripts without spaces, which may break anywhere.
        let alone = cells > 1;
        if alone {
            self.word.clear();
        }
        if self.column + cells > room {
            let before = cells::width(&self.word);
            if before > 0 && before + self.hang(room) >= self.column {
                self.overlong = true;
            } else {
                self.take_back(out, before);
                self.break_line(out, room);
                out.push_str(&self.word);
                self.column += before;
            }
        }
        out.push(character);
        self.column += cells;
        if !alone {
            self.word.push(character);
        }
    }

    /// Continues on the next line, below the text of a list's item.
    fn break_line(&mut self, out: &mut String, room: usize) {
        self.column = self.hang(room);
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', self.column));
    }

    /// How far the lines after the first are indented: in a list, as far as the item's text.
    fn hang(&self, room: usize) -> usize {
        let started = self.head.trim_start_matches(' ');
        let digits = started.bytes().take_while(u8::is_ascii_digit).count();
        let mark = match started[digits..].chars().next() {
            Some('•' | '-' | '*' | '+') if digits == 0 => 1,
            Some('.' | ')') if digits > 0 => digits + 1,
            _ => return 0,
        };
        let is_item = started.chars().nth(mark) == Some(' ');
        let hang = self.head.len() - started.len() + mark + 1;
        if is_item && hang * 2 < room { hang } else { 0 }
    }

    /// Erases the beginning of the word from the line.
    fn take_back(&self, out: &mut String, cells: usize) {
        if let Some(kept) = out.strip_suffix(self.word.as_str()) {
            out.truncate(kept.trim_end_matches(' ').len());
        } else if cells > 0 {
            out.push_str(&format!("\x1b[{cells}D\x1b[K"));
        }
    }

    fn note(&mut self, character: char) {
        if self.head.chars().count() < 8 {
            self.head.push(character);
        }
    }

    /// Whether the line must not be broken: code and tables.
    fn is_verbatim(&self) -> bool {
        let indented = self.head.starts_with("    ") || self.head.starts_with('\t');
        let started = self.head.trim_start();
        self.fenced || indented || started.starts_with("```") || started.starts_with('|')
    }
}

/// A whole text, wrapped for a terminal of `columns`.
pub(crate) fn wrapped(text: &str, columns: usize) -> String {
    Wrapper::default().push(text, columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a terminal shows after these pieces.
    fn shown(pieces: &[&str], columns: usize) -> String {
        let mut wrapper = Wrapper::default();
        let mut screen = String::new();
        for piece in pieces {
            let mut out = wrapper.push(piece, columns);
            while let Some(at) = out.find("\x1b[") {
                screen.push_str(&out[..at]);
                let (count, rest) = out[at + 2..].split_once("D\x1b[K").unwrap();
                let back: usize = count.parse().unwrap();
                let kept = screen.chars().count() - back;
                screen = screen.chars().take(kept).collect();
                out = rest.to_owned();
            }
            screen.push_str(&out);
        }
        let lines: Vec<_> = screen.split('\n').map(str::trim_end).collect();
        lines.join("\n")
    }

    #[test]
    fn lines_end_between_words_however_the_text_comes() {
        let text = "The quick brown fox jumps over the lazy dog.";
        let expected = "The quick\nbrown fox\njumps over\nthe lazy\ndog.";
        assert_eq!(shown(&[text], 11), expected);
        let letters: Vec<_> = text.split_inclusive(|_| true).collect();
        assert_eq!(shown(&letters, 11), expected);
        assert_eq!(shown(&["The qu", "ick bro", "wn fox jumps ov", "er the lazy d", "og."], 11), {
            expected
        });
        assert!(expected.lines().all(|line| line.len() < 11));
    }

    #[test]
    fn characters_of_two_cells_have_their_room() {
        assert_eq!(shown(&["日本語の文章です"], 7), "日本語\nの文章\nです");
        assert_eq!(shown(&["ab 日本 語"], 7), "ab 日\n本 語");
    }

    #[test]
    fn a_word_longer_than_a_line_is_left_to_the_terminal() {
        let long = "https://example.org/a/long/path";
        assert_eq!(shown(&["see ", long, " now"], 12), format!("see\n{long} now"));
    }

    #[test]
    fn the_lines_of_a_list_hang_below_its_text() {
        assert_eq!(shown(&["- one two three"], 11), "- one two\n  three");
        assert_eq!(shown(&["  • one two three"], 12), "  • one two\n    three");
        assert_eq!(
            shown(&["12. one two\nthree four five"], 10),
            "12. one\n    two\nthree\nfour five"
        );
        assert_eq!(shown(&["- o", "ne tw", "o thr", "ee"], 10), "- one two\n  three");
        assert_eq!(shown(&["- ", "a-long-word-of-its-own x"], 12), "- a-long-word-of-its-own x");
        assert_eq!(shown(&["-5 one two"], 8), "-5 one\ntwo");
        assert_eq!(shown(&["- 日本語の文章です"], 9), "- 日本語\n  の文章\n  です");
    }

    #[test]
    fn code_and_tables_keep_their_lines() {
        for text in [
            "```\nlet a_long_line = of(code, that, is, long);\n```\n",
            "| a long table | with columns |\n",
            "    indented code is code as well\n",
        ] {
            assert_eq!(shown(&[text], 12), text);
            let letters: Vec<_> = text.split_inclusive(|_| true).collect();
            assert_eq!(shown(&letters, 12), text);
        }
        assert_eq!(shown(&["```\nx\n```\none two three"], 8), "```\nx\n```\none two\nthree");
    }

    #[test]
    fn what_is_set_off_is_broken_between_words_too() {
        let mut screen = Screen::new(true);
        let mut out = screen.push("one **two three", 9);
        out.push_str(&screen.push("** four", 9));
        out.push_str(&screen.finish(9));
        let plain =
            ["\x1b[0m", "\x1b[1m"].iter().fold(out.clone(), |text, code| text.replace(code, ""));
        assert_eq!(plain, "one two\nthree\nfour");
        assert!(out.contains("\x1b[1mtwo") && out.contains("three\x1b[0m"), "{out:?}");
    }

    #[test]
    fn an_answer_cannot_drive_the_terminal() {
        assert_eq!(Wrapper::default().push("a\x1b[2Jb\r\u{9b}c", 80), "a\u{fffd}[2Jb\u{fffd}c");
    }

    #[test]
    fn a_terminal_of_no_width_at_all_is_no_reason_to_hang() {
        assert_eq!(wrapped("a b", 0), "a\nb");
        assert_eq!(wrapped("a b", 1), "a\nb");
    }
}
