//! Styles the Markdown of an answer while it streams: headings, emphasis, code and lists.
//!
//! [`Markdown`] turns text into [`Piece`]s. It styles only what is certain at once: a mark that may
//! be the first of two is held back until the next character decides, and nothing that was shown is
//! ever taken back.

const HEADING: &str = "\x1b[1m";
const BOLD: &str = "\x1b[1m";
const ITALIC: &str = "\x1b[3m";
const CODE: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// A line indented by this many spaces is code.
const CODE_INDENT: usize = 4;

/// A part of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    /// An escape sequence that styles the text after it. It takes no cells.
    Style(&'static str),
}

/// A parser of Markdown that arrives in pieces.
#[derive(Debug)]
pub(crate) struct Markdown {
    /// Text that is not decided yet.
    held: String,
    /// At the beginning of a line, before its kind is known.
    at_start: bool,
    /// The line is shown without styling.
    verbatim: bool,
    /// Within a fenced block of code; `fence` while its first or last line is read.
    fenced: bool,
    fence: bool,
    heading: bool,
    bold: bool,
    italic: bool,
    code: bool,
    /// The last character shown.
    before: char,
}

impl Default for Markdown {
    fn default() -> Self {
        Self {
            held: String::new(),
            at_start: true,
            verbatim: false,
            fenced: false,
            fence: false,
            heading: false,
            bold: false,
            italic: false,
            code: false,
            before: ' ',
        }
    }
}

impl Markdown {
    /// Adds text; returns what can be shown now.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for character in text.chars() {
            self.held.push(character);
            self.read(false, &mut pieces);
        }
        pieces
    }

    /// Ends the text; returns the rest.
    pub(crate) fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.read(true, &mut pieces);
        if self.is_set_off() {
            pieces.push(Piece::Style(PLAIN));
        }
        *self = Self::default();
        pieces
    }

    /// Shows as much of the held text as is decided; with `ended`, all of it.
    fn read(&mut self, ended: bool, pieces: &mut Vec<Piece>) {
        while !self.held.is_empty() {
            let read = match self.at_start {
                true => self.begin_line(ended, pieces),
                false => self.go_on(ended, pieces),
            };
            if !read {
                return;
            }
        }
    }

    /// Decides what kind of line this is; false if that needs more of it.
    fn begin_line(&mut self, ended: bool, pieces: &mut Vec<Piece>) -> bool {
        let marks = self.held.trim_start_matches(' ');
        let indent = self.held.len() - marks.len();
        let Some(mark) = marks.chars().next() else {
            // Only spaces so far.
            let known = ended || indent >= CODE_INDENT || self.fenced;
            return known && self.show_line_as_it_is(self.fenced || indent >= CODE_INDENT);
        };
        let same = marks.chars().take_while(|character| *character == mark).count();
        let after = marks.chars().nth(same);
        let open = after.is_none() && !ended;
        match mark {
            '`' if same < 3 && open => return false,
            '`' if same >= 3 => {
                self.fence = true;
                return self.show_line_as_it_is(true);
            }
            _ if self.fenced || indent >= CODE_INDENT || mark == '|' => {
                return self.show_line_as_it_is(true);
            }
            '#' if same <= 6 && open => return false,
            '#' if same <= 6 && after == Some(' ') => {
                self.held.drain(..=indent + same);
                self.heading = true;
                pieces.push(Piece::Style(HEADING));
            }
            '-' | '*' | '+' if same == 1 && open => return false,
            '-' | '*' | '+' if same == 1 && after == Some(' ') => {
                self.held.drain(..=indent + same);
                add(pieces, &format!("{}• ", " ".repeat(indent)));
            }
            _ => {}
        }
        self.at_start = false;
        true
    }

    fn show_line_as_it_is(&mut self, verbatim: bool) -> bool {
        (self.at_start, self.verbatim) = (false, verbatim);
        true
    }

    /// Reads on within a line; false if the next mark is not decided yet.
    fn go_on(&mut self, ended: bool, pieces: &mut Vec<Piece>) -> bool {
        let mut characters = self.held.chars();
        let (first, second, third) = (characters.next(), characters.next(), characters.next());
        let Some(first) = first else { return false };
        match first {
            '\n' => self.end_line(pieces),
            _ if self.verbatim => self.show(1, pieces),
            '`' => {
                self.code = !self.code;
                self.set_off(1, pieces);
            }
            _ if self.code => self.show(1, pieces),
            '*' if second.is_none() && !ended => return false,
            '*' if second == Some('*') => {
                let opens = self.before.is_whitespace() && third.is_some_and(is_of_a_word);
                if self.bold && !self.before.is_whitespace() {
                    self.bold = false;
                    self.set_off(2, pieces);
                } else if !self.bold && third.is_none() && !ended {
                    return false;
                } else if !self.bold && opens {
                    self.bold = true;
                    self.set_off(2, pieces);
                } else {
                    self.show(2, pieces);
                }
            }
            '*' if self.italic && !self.before.is_whitespace() => {
                self.italic = false;
                self.set_off(1, pieces);
            }
            '*' if !self.italic
                && self.before.is_whitespace()
                && second.is_some_and(char::is_alphanumeric) =>
            {
                self.italic = true;
                self.set_off(1, pieces);
            }
            _ => self.show(1, pieces),
        }
        true
    }

    fn end_line(&mut self, pieces: &mut Vec<Piece>) {
        if self.is_set_off() {
            pieces.push(Piece::Style(PLAIN));
        }
        self.held.remove(0);
        add(pieces, "\n");
        let fenced = self.fenced != self.fence;
        *self = Self { held: std::mem::take(&mut self.held), fenced, ..Self::default() };
    }

    /// Shows the next `count` characters.
    fn show(&mut self, count: usize, pieces: &mut Vec<Piece>) {
        let end = self.held.char_indices().nth(count).map_or(self.held.len(), |(at, _)| at);
        let shown: String = self.held.drain(..end).collect();
        self.before = shown.chars().next_back().unwrap_or(self.before);
        add(pieces, &shown);
    }

    /// Drops a mark of `mark` bytes, and restyles what follows.
    fn set_off(&mut self, mark: usize, pieces: &mut Vec<Piece>) {
        // Marks are ASCII, so bytes are characters.
        self.held.drain(..mark);
        pieces.push(Piece::Style(PLAIN));
        let on = [(self.bold || self.heading, BOLD), (self.italic, ITALIC), (self.code, CODE)];
        pieces.extend(on.into_iter().filter(|(on, _)| *on).map(|(_, style)| Piece::Style(style)));
    }

    fn is_set_off(&self) -> bool {
        self.heading || self.bold || self.italic || self.code
    }
}

fn is_of_a_word(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '`' | '"' | '\'' | '(')
}

fn add(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        Some(Piece::Text(last)) => last.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output, with `<1>` and the like for styles.
    fn shown(pieces: impl IntoIterator<Item = Piece>) -> String {
        pieces
            .into_iter()
            .map(|piece| match piece {
                Piece::Text(text) => text,
                Piece::Style(style) => {
                    style.replace("\x1b[", "<").trim_end_matches('m').to_owned() + ">"
                }
            })
            .collect()
    }

    fn whole(text: &str) -> String {
        let mut markdown = Markdown::default();
        let pieces = markdown.push(text);
        shown(pieces.into_iter().chain(markdown.finish()))
    }

    #[test]
    fn what_is_marked_is_set_off() {
        for (text, expected) in [
            ("# A title\nText", "<1>A title<0>\nText"),
            ("a **bold** word", "a <0><1>bold<0> word"),
            ("an *odd* word", "an <0><3>odd<0> word"),
            ("run `a * b` now", "run <0><36>a * b<0> now"),
            ("- one\n  * two\n+ three", "• one\n  • two\n• three"),
            ("**Note:** all", "<0><1>Note:<0> all"),
            ("**left open\nnext", "<0><1>left open<0>\nnext"),
        ] {
            assert_eq!(whole(text), expected, "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_mark_is_shown_as_it_is() {
        for text in [
            "2 * 3 * 4 and 2*3*4 and 2**3",
            "a ** b",
            "f(**kwargs)",
            "#hashtag and C# too",
            "-5 degrees",
            "####### seven",
            "---\n",
            "***\n",
            "| a | **b** |\n",
            "    indented **code**\n",
            "```\n# no title\n**x**\n```\n",
            "*",
            "**",
            "#",
            "日本語 * 文章",
        ] {
            assert_eq!(whole(text), text);
        }
    }

    #[test]
    fn after_a_block_of_code_marks_are_marks_again() {
        assert_eq!(whole("```sh\n# x\n```\n# y\n"), "```sh\n# x\n```\n<1>y<0>\n");
    }

    #[test]
    fn it_is_the_same_however_it_comes() {
        let text = "# T\n\n- **a** `b*` *c*\n```\n**x**\n```\n2 * 3\n  - d\n\n    code\nend **";
        let mut markdown = Markdown::default();
        let mut pieces = Vec::new();
        for character in text.chars() {
            pieces.extend(markdown.push(&character.to_string()));
        }
        pieces.extend(markdown.finish());
        assert_eq!(shown(pieces), whole(text));
    }
}
