//! Colour, on terminals that show it and for users who have not declined it.

use std::env;
use std::io::{self, IsTerminal};

/// How text is highlighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Bold,
    Red,
    Green,
    Yellow,
    Cyan,
}

impl Style {
    /// The text, highlighted if `coloured`.
    pub(crate) fn paint(self, text: &str, coloured: bool) -> String {
        let code = match self {
            Self::Bold => 1,
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Cyan => 36,
        };
        match coloured {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// Whether standard output is a terminal that shows colour.
pub(crate) fn on_stdout() -> bool {
    shows_colour(io::stdout().is_terminal(), |name| env::var(name).ok())
}

/// Whether standard error is a terminal that shows colour.
pub(crate) fn on_stderr() -> bool {
    shows_colour(io::stderr().is_terminal(), |name| env::var(name).ok())
}

/// Follows <https://no-color.org>, and trusts no terminal whose `TERM` is empty or `dumb`.
fn shows_colour(terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    terminal && set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_whose_users_want_it() {
        let with = |set: &'static [(&str, &str)]| {
            move |name: &str| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            }
        };
        assert!(shows_colour(true, with(&[("TERM", "xterm")])));
        assert!(shows_colour(true, with(&[("TERM", "xterm"), ("NO_COLOR", "")])));
        assert!(!shows_colour(false, with(&[("TERM", "xterm")])));
        assert!(!shows_colour(true, with(&[("TERM", "xterm"), ("NO_COLOR", "1")])));
        assert!(!shows_colour(true, with(&[("TERM", "dumb")])));
        assert!(!shows_colour(true, with(&[])));
    }

    #[test]
    fn paint_goes_on_and_off_again() {
        assert_eq!(Style::Red.paint("x", true), "\x1b[31mx\x1b[0m");
        assert_eq!(Style::Red.paint("x", false), "x");
    }
}
