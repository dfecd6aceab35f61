//! Where minijinja differs from Python's Jinja2 as Hugging Face sets it up.

use std::borrow::Cow;
use std::fmt::Write;

use minijinja::value::{ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;

/// Makes `environment` behave like Python's where templates notice.
pub(super) fn adapt(environment: &mut Environment<'static>) {
    minijinja_contrib::add_to_environment(environment);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(write);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
}

/// The number of items or characters; what is undefined has none, as in Python.
fn length(value: &Value) -> Result<usize, Error> {
    match value.len() {
        _ if value.is_undefined() => Ok(0),
        Some(length) => Ok(length),
        None => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("a value that is {} has no length", value.kind()),
        )),
    }
}

/// Hugging Face's `{% generation %}` blocks mark what the assistant said, for training. They
/// render what is inside, so each becomes a block that always does.
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

/// Python's methods on strings, lists and dictionaries: those of `minijinja-contrib`, and what it
/// lacks or does otherwise than Python.
fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return pycompat::unknown_method_callback(state, value, name, args);
    };
    match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        // Python counts characters, and `content[:content.find("x")]` cuts by them.
        "find" | "rfind" | "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let found = if name.starts_with('r') { text.rfind(what) } else { text.find(what) };
            match found {
                Some(at) => Ok(Value::from(text[..at].chars().count())),
                None if name.ends_with("find") => Ok(Value::from(-1)),
                None => Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
            }
        }
        "split" | "rsplit" => split(text, name == "rsplit", args),
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let parts = match name {
                "partition" => text.split_once(separator).map(|(a, b)| [a, separator, b]),
                _ => text.rsplit_once(separator).map(|(a, b)| [a, separator, b]),
            };
            let parts = parts.unwrap_or(match name {
                "partition" => [text, "", ""],
                _ => ["", "", text],
            });
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "isupper" | "islower" | "isdigit" | "isnumeric" | "isalpha" | "isalnum" | "isspace"
            if text.is_empty() =>
        {
            Ok(Value::from(false))
        }
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    // Python's limit counts cuts; Rust's counts pieces. Negative is no limit.
    let pieces = most.and_then(|most| usize::try_from(most).ok()).map(|most| most + 1);
    let mut parts: Vec<&str> = match (separator, pieces, from_right) {
        (Some(""), ..) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
        }
        (Some(separator), None, _) => text.split(separator).collect(),
        (Some(separator), Some(pieces), false) => text.splitn(pieces, separator).collect(),
        (Some(separator), Some(pieces), true) => text.rsplitn(pieces, separator).collect(),
        (None, None, _) => text.split_whitespace().collect(),
        (None, Some(pieces), false) => {
            let mut parts = Vec::new();
            let mut rest = text.trim_start();
            while parts.len() + 1 < pieces
                && let Some((word, after)) = rest.split_once(char::is_whitespace)
            {
                parts.push(word);
                rest = after.trim_start();
            }
            if !rest.is_empty() {
                parts.push(rest);
            }
            parts
        }
        (None, Some(_), true) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "rsplit needs a separator"));
        }
    };
    if from_right && separator.is_some() && pieces.is_some() {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Writes a value as Python's `str()` does.
fn write(out: &mut Output, _: &State, value: &Value) -> Result<(), Error> {
    let mut text = String::new();
    str_of(value, &mut text)?;
    out.write_str(&text).map_err(Error::from)
}

fn str_of(value: &Value, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::String => {
            out.push_str(value.as_str().unwrap_or_default());
            Ok(())
        }
        _ => repr(value, out),
    }
}

/// Writes a value as Python's `repr()` does.
fn repr(value: &Value, out: &mut String) -> Result<(), Error> {
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
        _ => write!(out, "{value}").map_err(Error::from)?,
    }
    Ok(())
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
            _ if character.is_control() => {
                out.push_str(&format!("\\x{:02x}", u32::from(character)));
            }
            _ => out.push(character),
        }
    }
    out.push(quote);
}
