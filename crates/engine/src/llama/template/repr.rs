//! Values as Python's `str()` and `repr()` write them.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::limits;

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
    repr_at(value, 0, out)
}

fn repr_at(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    limits::depth(depth)?;
    limits::length(out.len())?;
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => repr_string(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            let is_tuple = value.is_tuple();
            out.push(if is_tuple { '(' } else { '[' });
            for (index, item) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                repr_at(&item, depth + 1, out)?;
            }
            if is_tuple && value.len() == Some(1) {
                out.push(',');
            }
            out.push(if is_tuple { ')' } else { ']' });
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                repr_at(&key, depth + 1, out)?;
                out.push_str(": ");
                repr_at(&value.get_item(&key)?, depth + 1, out)?;
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
