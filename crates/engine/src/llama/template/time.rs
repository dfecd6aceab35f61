//! The time of day, as Python's `strftime` writes it.

use std::fmt::Write;
use std::sync::OnceLock;

use jiff::Zoned;
use jiff::fmt::strtime;

/// What Python writes for these in the language that it has by itself; jiff knows others or none.
const SPELLED_OUT: [(&str, &str); 4] =
    [("%c", "%a %b %e %H:%M:%S %Y"), ("%x", "%m/%d/%y"), ("%X", "%H:%M:%S"), ("%r", "%I:%M:%S %p")];

/// What a directive may end with.
const KNOWN: &str = "%aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ";

/// The local time in a `strftime` format.
pub(crate) fn local_time(format: &str) -> String {
    strftime(format, &jiff::Timestamp::now().to_zoned(local_zone().clone()))
}

/// The machine's time zone, asked once: behind the fence its file cannot be read.
pub(crate) fn local_zone() -> &'static jiff::tz::TimeZone {
    static ZONE: OnceLock<jiff::tz::TimeZone> = OnceLock::new();
    ZONE.get_or_init(jiff::tz::TimeZone::system)
}

/// A time in a `strftime` format. What is not known stands as it is, as with Python.
pub(super) fn strftime(format: &str, time: &Zoned) -> String {
    let mut text = String::with_capacity(format.len());
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        let directive = directive(&rest[at..]);
        rest = &rest[at + directive.len()..];
        match directive {
            // Python's own, which no C library has.
            "%f" => {
                let _ = write!(text, "{:06}", time.subsec_nanosecond() / 1000);
            }
            // jiff knows more than C does, of which Python knows nothing either.
            _ if !directive.ends_with(|it| KNOWN.contains(it)) => text.push_str(directive),
            // Hugging Face asks a clock that knows of no time zone.
            "%z" | "%:z" | "%Z" => {}
            _ => {
                let spelled = SPELLED_OUT.iter().find(|(short, _)| *short == directive);
                let directive = spelled.map_or(directive, |(_, format)| format);
                match strtime::format(directive, time) {
                    Ok(formatted) => text.push_str(&formatted),
                    Err(_) => text.push_str(directive),
                }
            }
        }
    }
    text.push_str(rest);
    text
}

/// A directive with its flags and its width, at the beginning of a text.
fn directive(text: &str) -> &str {
    let mut length = 1;
    for it in text[1..].chars() {
        length += it.len_utf8();
        if !(it.is_ascii_digit() || matches!(it, '-' | '_' | '^' | '#' | ':' | 'E' | 'O')) {
            break;
        }
    }
    &text[..length]
}
