//! Limits on the values and texts that a template makes. Templates come from untrusted files: one
//! that asks for too much is refused before it takes the engine's memory or stack.

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, State, Value};

/// The filter that all values pass that a template assigns to a namespace.
pub(super) const KEPT: &str = "kept_in_a_namespace";
/// How deep lists and dictionaries may be nested: as deep as in the JSON that requests are read
/// from.
const MOST_DEPTH: usize = 128;
/// How many items a value in a namespace may have, those of nested lists and dictionaries included.
const MOST_ITEMS: usize = 1 << 18;
/// The longest text that one filter or method may make, in bytes.
const MOST_TEXT: usize = 64 << 20;
/// The widest padding allowed, in characters.
pub(super) const MOST_WIDTH: i64 = 1 << 20;

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter(KEPT, |state: &State, value: Value| {
        let mut left = MOST_ITEMS;
        check(state, &value, 0, &mut left)?;
        Ok::<_, Error>(value)
    });
}

fn wrong(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

/// Fails if lists and dictionaries are nested too deeply.
pub(super) fn depth(depth: usize) -> Result<(), Error> {
    match depth > MOST_DEPTH {
        true => Err(wrong("lists or dictionaries are nested too deeply")),
        false => Ok(()),
    }
}

/// Fails if a text is, or would become, too long.
pub(super) fn length(bytes: usize) -> Result<(), Error> {
    match bytes > MOST_TEXT {
        true => Err(wrong("the text becomes too long")),
        false => Ok(()),
    }
}

/// Fails if a namespace could come to hold itself: all that is written, compared or hashed ends
/// only if no value does. Namespaces are the only values that change; loops, cyclers and joiners
/// hold values that are not seen from outside.
fn check(state: &State, value: &Value, at: usize, left: &mut usize) -> Result<(), Error> {
    let Some(object) = value.as_object() else { return Ok(()) };
    let holds = ["::Namespace", "::Loop", "::Cycler", "::Joiner"];
    if holds.iter().any(|name| object.type_name().ends_with(name)) {
        return Err(wrong("a namespace cannot hold a namespace, a loop, a cycler or a joiner"));
    }
    depth(at)?;
    let is_map = match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => false,
        ValueKind::Map => true,
        _ => return Ok(()),
    };
    for (index, item) in value.try_iter()?.enumerate() {
        if index % 16 == 0 {
            state.consume_fuel(1)?;
        }
        let more = || wrong("a list or dictionary becomes too long");
        *left = left.checked_sub(1).ok_or_else(more)?;
        if is_map {
            check(state, &value.get_item(&item)?, at + 1, left)?;
        }
        check(state, &item, at + 1, left)?;
    }
    Ok(())
}
