//! Evens out the differences between minijinja and Python's Jinja2 as Hugging Face sets it up.

use std::borrow::Cow;

use minijinja::value::{ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;

use super::repr::str_of;
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
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
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
fn write(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    let mut text = String::new();
    str_of(value, &mut text)?;
    out.write_str(&text).map_err(Error::from)
}
