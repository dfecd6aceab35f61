//! Evens out the differences between minijinja and Python's Jinja2 as Hugging Face sets it up.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;

use super::repr::str_of;
use super::{filters, limits, strings};

/// Makes `environment` behave like Python's in every way that templates notice.
pub(super) fn adapt(environment: &mut Environment<'static>) {
    minijinja_contrib::add_to_environment(environment);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(write);
    filters::add(environment);
    limits::add(environment);
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
