//! What the terminal can show, judging by the environment.

use std::ffi::OsString;
use std::sync::OnceLock;

/// The characters to draw with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Glyphs {
    /// The frames of the spinner.
    pub(crate) spinner: &'static [char],
    /// Marks a text that was cut.
    pub(crate) more: char,
    /// A filled cell of a progress bar.
    pub(crate) full: char,
    /// An empty cell of a progress bar.
    pub(crate) empty: char,
}

const UNICODE: Glyphs = Glyphs {
    spinner: &['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'],
    more: '…',
    full: '█',
    empty: '░',
};
const ASCII: Glyphs = Glyphs { spinner: &['|', '/', '-', '\\'], more: '~', full: '#', empty: '.' };

/// The characters that the locale can show.
pub(crate) fn glyphs() -> &'static Glyphs {
    static FOUND: OnceLock<&Glyphs> = OnceLock::new();
    FOUND.get_or_init(|| if is_utf8(|name| std::env::var_os(name)) { &UNICODE } else { &ASCII })
}

/// Whether the terminal understands escape sequences.
pub(crate) fn escapes() -> bool {
    understands_escapes(std::env::var_os("TERM"))
}

fn is_utf8(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    // The first variable that is set decides; without any, the locale is `C`.
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let locale = names.into_iter().filter_map(variable).find(|value| !value.is_empty());
    locale.is_some_and(|locale| {
        let locale = locale.to_string_lossy().to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

fn understands_escapes(term: Option<OsString>) -> bool {
    term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locale_decides_what_is_drawn() {
        let utf8 = |variables: &[(&str, &str)]| {
            is_utf8(|name| Some(variables.iter().find(|(known, _)| *known == name)?.1.into()))
        };
        assert!(utf8(&[("LANG", "de_DE.UTF-8")]));
        assert!(utf8(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8"), ("LANG", "C")]));
        assert!(!utf8(&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]));
        assert!(!utf8(&[("LANG", "en_US.ISO-8859-1")]));
        assert!(!utf8(&[]));
        assert!(ASCII.spinner.iter().all(char::is_ascii));
    }

    #[test]
    fn a_terminal_that_says_nothing_of_itself_is_sent_no_escapes() {
        let escapes = |term: Option<&str>| understands_escapes(term.map(Into::into));
        assert!(escapes(Some("xterm-256color")));
        assert!(!escapes(Some("dumb")) && !escapes(Some("")) && !escapes(None));
    }
}
