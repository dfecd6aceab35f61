//! Styles the Markdown of an answer while it streams: headings, emphasis, code, lists, links, rules.
//!
//! [`Markdown`] turns text into [`Piece`]s. It styles only what is certain at once: a mark that may
//! be the first of two is held back until the next character decides, and so is a link until its
//! end. Nothing that was shown is ever taken back.

use crate::cells;

const HEADING: &str = "\x1b[1m";
const BOLD: &str = "\x1b[1m";
const ITALIC: &str = "\x1b[3m";
const CODE: &str = "\x1b[36m";
const LINK: &str = "\x1b[4m";
const PLAIN: &str = "\x1b[0m";

/// A line indented by this many spaces is code.
const CODE_INDENT: usize = 4;

/// How a rule (`---`) is shown.
const RULE: &str = "────────────────────────";

/// How long a link may be, in bytes. What is longer is no link: it must not be held back for ever.
const LINK_BYTES: usize = 500;

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
    /// The mark that began bold text, which ends it too.
    bold_mark: char,
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
            bold_mark: '*',
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
            '-' | '*' | '_' | '+' if open => return false,
            '-' | '*' | '_' if same >= 3 && matches!(after, None | Some('\n' | '\r')) => {
                self.held.drain(..indent + same);
                add(pieces, RULE);
            }
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
            '*' | '_' if second.is_none() && !ended => return false,
            '*' | '_' if second == Some(first) => {
                let closes = self.bold && self.bold_mark == first && !self.before.is_whitespace();
                if third.is_none() && !ended && (!self.bold || (closes && first == '_')) {
                    return false;
                }
                let opens = !self.bold && self.may_open(first) && third.is_some_and(is_of_a_word);
                // Underscores within a word belong to it.
                if closes && (first == '*' || !third.is_some_and(char::is_alphanumeric)) {
                    self.bold = false;
                    self.set_off(2, pieces);
                } else if opens {
                    (self.bold, self.bold_mark) = (true, first);
                    self.set_off(2, pieces);
                } else {
                    self.show(2, pieces);
                }
            }
            '[' => return self.link(ended, pieces),
            '*' if self.italic && !self.before.is_whitespace() => {
                self.italic = false;
                self.set_off(1, pieces);
            }
            '*' if !self.italic
                && self.may_open('*')
                && second.is_some_and(char::is_alphanumeric) =>
            {
                self.italic = true;
                self.set_off(1, pieces);
            }
            _ => self.show(1, pieces),
        }
        true
    }

    /// Whether emphasis may begin here: after a space, or after a character of a script without
    /// spaces. A word or a number before an asterisk makes it an operator.
    fn may_open(&self, mark: char) -> bool {
        let unspaced = cells::width_of(self.before) > 1 && mark == '*';
        self.before.is_whitespace() || unspaced
    }

    /// Shows a link as its text and address; false if it is not known yet whether it is one.
    fn link(&mut self, ended: bool, pieces: &mut Vec<Piece>) -> bool {
        let Some((text, address, end)) = link_in(&self.held) else {
            let whole = ended || self.held.len() > LINK_BYTES || self.held.contains('\n');
            let undecided = !whole && may_become_a_link(&self.held);
            if !undecided {
                self.show(1, pieces);
            }
            return !undecided;
        };
        let shown = text.replace('`', "");
        let address = if address == shown { String::new() } else { format!(" ({address})") };
        self.held.drain(..end);
        self.before = ')';
        pieces.push(Piece::Style(LINK));
        add(pieces, &shown);
        self.set_off(0, pieces);
        add(pieces, &address);
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
    let wide = cells::width_of(character) > 1;
    character.is_alphanumeric() || wide || matches!(character, '`' | '"' | '\'' | '(')
}

/// The text and the address of the link that a text begins with, and the link's length.
fn link_in(text: &str) -> Option<(String, String, usize)> {
    let (shown, rest) = text.strip_prefix('[')?.split_once("](")?;
    let (address, _) = rest.split_once(')')?;
    let plain = !shown.is_empty() && !shown.contains(['[', ']', '\n']);
    let located = !address.is_empty() && !address.contains(char::is_whitespace);
    let end = shown.len() + address.len() + "[]()".len();
    (plain && located).then(|| (shown.to_owned(), address.to_owned(), end))
}

/// Whether more text could make a link of this, which begins with a bracket.
fn may_become_a_link(text: &str) -> bool {
    let Some((shown, rest)) = text[1..].split_once(']') else { return !text[1..].contains('[') };
    let mut rest = rest.chars();
    let located = match rest.next() {
        None => true,
        Some('(') => !rest.any(|character| character == ')' || character.is_whitespace()),
        Some(_) => false,
    };
    !shown.is_empty() && !shown.contains('[') && located
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
            ("a __bold__ word", "a <0><1>bold<0> word"),
            ("__a_b **c__ d", "<0><1>a_b **c<0> d"),
            ("这是**粗体**文字", "这是<0><1>粗体<0>文字"),
            ("これは*斜体*です", "これは<0><3>斜体<0>です"),
            ("**「引用」**です", "<0><1>「引用」<0>です"),
            ("a\n---\nb", "a\n────────────────────────\nb"),
            ("***\n___", "────────────────────────\n────────────────────────"),
            ("see [the `docs`](https://x.y/z), now", "see <4>the docs<0> (https://x.y/z), now"),
            ("[https://x.y](https://x.y)", "<4>https://x.y<0>"),
            ("**a [b](c) d**", "<0><1>a <4>b<0><1> (c) d<0>"),
            ("- [ ] open [1] [a] (b)", "• [ ] open [1] [a] (b)"),
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
            "a -- b",
            "--flag and --- here",
            "snake_case__name and my__var",
            "x[1](2 and a[i][j] and [",
            "[a](b c)",
            "[]()",
            "[open",
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
        let text = "# T\n\n- **a** `b*` *c*\n```\n**x**\n```\n2 * 3\n  - d\n\n    code\n这**b**c __d__ [e](f) [g\n---\nend **";
        let mut markdown = Markdown::default();
        let mut pieces = Vec::new();
        for character in text.chars() {
            pieces.extend(markdown.push(&character.to_string()));
        }
        pieces.extend(markdown.finish());
        assert_eq!(shown(pieces), whole(text));
    }
}
