//! Evens out the differences between minijinja and Python's Jinja2 as Hugging Face sets it up.

use std::borrow::Cow;
use std::fmt::Write;

use minijinja::value::{ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;

use super::{filters, strings};

/// Makes `environment` behave like Python's in every way that templates notice.
pub(super) fn adapt(environment: &mut Environment<'static>) {
    minijinja_contrib::add_to_environment(environment);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(write);
    filters::add(environment);
}

/// Replaces Hugging Face's `{% generation %}` blocks, which mark the assistant's text for training
/// and render their content, by `{% if true %}` blocks.
pub(super) fn without_generation_tags(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}").map(|end| end + 2) else {
            break;
        };
        let tag = &rest[start..start + length];
        let word = tag[2..length - 2].trim_matches(['-', '+']).trim();
        text.push_str(&rest[..start]);
        match word {
            "generation" => text.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => text.push_str(&tag.replace("endgeneration", "endif")),
            _ => text.push_str(tag),
        }
        rest = &rest[start + length..];
    }
    text.push_str(rest);
    Cow::Owned(text)
}

/// Python's methods on strings, lists and dictionaries: those of `minijinja-contrib`, and those
/// that it lacks or implements differently.
fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(result) = strings::method(text, name, args)
    {
        return result;
    }
    match (value.kind(), name) {
        (ValueKind::Seq | ValueKind::Map, "copy") => {
            let () = from_args(args)?;
            // Values are immutable here, so a copy is not needed.
            Ok(value.clone())
        }
        (ValueKind::Seq, "index") => {
            let (what,): (&Value,) = from_args(args)?;
            let found = value.try_iter()?.position(|item| item == *what);
            let none = || Error::new(ErrorKind::InvalidOperation, "the value is not in the list");
            Ok(Value::from(found.ok_or_else(none)?))
        }
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Writes a value like Python's `str()`.
fn write(out: &mut Output, _: &State, value: &Value) -> Result<(), Error> {
    let mut text = String::new();
    str_of(value, &mut text)?;
    out.write_str(&text).map_err(Error::from)
}

/// Writes a value like Python's `str()`.
pub(super) fn str_of(value: &Value, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::String => {
            out.push_str(value.as_str().unwrap_or_default());
            Ok(())
        }
        _ => repr(value, out),
    }
}

/// Writes a value like Python's `repr()`.
pub(super) fn repr(value: &Value, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => repr_string(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (index, item) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                repr(&item, out)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                repr(&key, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out)?;
            }
            out.push('}');
        }
        ValueKind::Number => number(value, out)?,
        _ => write!(out, "{value}").map_err(Error::from)?,
    }
    Ok(())
}

/// Writes a number like Python: a float has a point or an exponent.
pub(super) fn number(value: &Value, out: &mut String) -> Result<(), Error> {
    if value.is_integer() {
        return write!(out, "{value}").map_err(Error::from);
    }
    let number = f64::try_from(value.clone())?;
    let scientific = format!("{number:e}");
    let written = match scientific.split_once('e') {
        _ if number.is_nan() => write!(out, "nan"),
        None => write!(out, "{}", if number < 0.0 { "-inf" } else { "inf" }),
        Some((digits, exponent)) => match exponent.parse::<i32>() {
            Ok(exponent) if !(-4..16).contains(&exponent) => {
                let sign = if exponent < 0 { '-' } else { '+' };
                write!(out, "{digits}e{sign}{:02}", exponent.unsigned_abs())
            }
            _ => write!(out, "{number:?}"),
        },
    };
    written.map_err(Error::from)
}

fn repr_string(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == quote => out.extend(['\\', quote]),
            _ if is_printable(character) => out.push(character),
            _ => out.push_str(&match u32::from(character) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
}

/// Whether Python's `repr()` shows a character as it is: no control, format or private-use
/// character, and no white space but the space.
pub(super) fn is_printable(character: char) -> bool {
    let shapeless = matches!(
        character,
        '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{e000}'..='\u{f8ff}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0001}'..='\u{e007f}'
            | '\u{f0000}'..
    );
    character == ' ' || !(character.is_control() || character.is_whitespace() || shapeless)
}
