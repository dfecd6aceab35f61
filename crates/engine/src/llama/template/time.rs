//! The local time, formatted like Python's `strftime`.

use std::fmt::Write;
use std::sync::OnceLock;

use jiff::ZonedDateTime;
use jiff::fmt::strtime;

/// How Python's default locale expands these; jiff expands them differently or not at all.
const SPELLED_OUT: [(&str, &str); 4] =
    [("%c", "%a %b %e %H:%M:%S %Y"), ("%x", "%m/%d/%y"), ("%X", "%H:%M:%S"), ("%r", "%I:%M:%S %p")];

/// The letters that a directive may end with.
const KNOWN: &str = "%aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ";

/// The local time in a `strftime` format.
pub(crate) fn local_time(format: &str) -> String {
    strftime(format, &jiff::Timestamp::now().to_zoned_datetime(local_zone().clone()))
}

/// The machine's time zone, read once: behind the fence its file is not readable.
pub(crate) fn local_zone() -> &'static jiff::tz::TimeZone {
    static ZONE: OnceLock<jiff::tz::TimeZone> = OnceLock::new();
    ZONE.get_or_init(jiff::tz::TimeZone::system)
}

/// A time in a `strftime` format. Unknown directives are kept as they are, as in Python.
pub(super) fn strftime(format: &str, time: &ZonedDateTime) -> String {
    let mut text = String::with_capacity(format.len());
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        let directive = directive(&rest[at..]);
        rest = &rest[at + directive.len()..];
        match directive {
            // Python's own directive, which C does not have.
            "%f" => {
                let _ = write!(text, "{:06}", time.subsec_nanosecond() / 1000);
            }
            // jiff has directives that C, and so Python, does not have.
            _ if !directive.ends_with(|it| KNOWN.contains(it)) => text.push_str(directive),
            // Hugging Face formats a time without a time zone.
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

/// The directive at the start of a text, with its flags and width.
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
