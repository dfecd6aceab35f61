//! Jinja filters that minijinja lacks or implements differently.

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::repr::{repr, str_of};
use super::strings;

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("string", |value: &Value| text(value));
    environment.add_filter("join", join);
    environment.add_filter("center", |value: &Value, width: Option<i64>| {
        strings::center(&text(value)?, width.unwrap_or(80))
    });
    environment.add_filter("wordcount", wordcount);
    environment.add_filter("truncate", truncate);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("dictsort", dictsort);
    for name in ["escape", "e"] {
        environment.add_filter(name, |value: &Value| match value.is_safe() {
            true => Ok(value.clone()),
            false => escaped(value),
        });
    }
    environment.add_filter("forceescape", escaped);
    environment.add_filter("pprint", |value: &Value| -> Result<String, Error> {
        let mut text = String::new();
        repr(value, &mut text)?;
        Ok(text)
    });
    environment.add_test("sequence", |value: &Value| {
        // Anything with a length and an index: in Python, also strings and dictionaries.
        let kind = value.kind();
        matches!(kind, ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined)
    });
}

fn wrong(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

/// A value as a string, like Python's `str()`.
fn text(value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    str_of(value, &mut text)?;
    Ok(text)
}

/// Positional and named arguments, as in Python.
struct Arguments {
    ordered: std::vec::IntoIter<Value>,
    named: Kwargs,
}

impl Arguments {
    fn new(given: Rest<ValueOrKwargs>) -> Result<Self, Error> {
        let given = given.into_values();
        let (ordered, named): (&[Value], Kwargs) = from_args(&given)?;
        Ok(Self { ordered: Vec::from(ordered).into_iter(), named })
    }

    /// The next positional argument, else the one named `name`.
    fn next(&mut self, name: &str) -> Result<Option<Value>, Error> {
        match self.ordered.next() {
            Some(value) => Ok(Some(value)),
            None => self.named.get(name),
        }
    }

    fn end(mut self) -> Result<(), Error> {
        match self.ordered.next() {
            Some(_) => Err(Error::from(ErrorKind::TooManyArguments)),
            None => self.named.assert_all_used(),
        }
    }
}

fn join(value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let mut arguments = Arguments::new(given)?;
    let separator = arguments.next("d")?.map(|it| text(&it)).transpose()?.unwrap_or_default();
    let attribute = arguments.next("attribute")?.filter(|it| !it.is_none());
    arguments.end()?;
    if value.is_undefined() {
        return Ok(Value::from(""));
    }
    strings::join(&separator, &attributes_of(value, attribute)?)
}

/// The value of `attribute` for each item. The attribute may be a path with dots.
fn attributes_of(items: &Value, attribute: Option<Value>) -> Result<Value, Error> {
    let Some(attribute) = attribute else { return Ok(items.clone()) };
    let path = text(&attribute)?;
    let of = |item: Value| path.split('.').try_fold(item, |item, step| item.get_attr(step));
    Ok(Value::from(items.try_iter()?.map(of).collect::<Result<Vec<_>, _>>()?))
}

/// The key-value pairs of a dictionary, sorted.
fn dictsort(value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let mut arguments = Arguments::new(given)?;
    let case_sensitive = arguments.next("case_sensitive")?.is_some_and(|value| value.is_true());
    let by = arguments.next("by")?.map(|it| text(&it)).transpose()?;
    let reverse = arguments.next("reverse")?.is_some_and(|value| value.is_true());
    arguments.end()?;
    let by_value = match by.as_deref() {
        None | Some("key") => false,
        Some("value") => true,
        Some(_) => return Err(wrong("dictsort: `by` takes key or value")),
    };
    let pairs = value.try_iter()?.map(|key| Ok((value.get_item(&key)?, key)));
    let mut pairs = pairs.collect::<Result<Vec<_>, Error>>()?;
    pairs.sort_by_cached_key(|(value, key)| {
        let sorted = if by_value { value } else { key };
        match sorted.as_str().filter(|_| !case_sensitive) {
            Some(text) => Value::from(text.to_lowercase()),
            None => sorted.clone(),
        }
    });
    if reverse {
        pairs.reverse();
    }
    Ok(pairs.into_iter().map(|(value, key)| Value::from(Tuple::from([key, value]))).collect())
}

fn escaped(value: &Value) -> Result<Value, Error> {
    let mut escaped = String::new();
    for it in text(value)?.chars() {
        match it {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(it),
        }
    }
    Ok(Value::from_safe_string(escaped))
}

fn wordcount(value: &Value) -> Result<usize, Error> {
    let value = text(value)?;
    let words = value.split(|it: char| !(it.is_alphanumeric() || it == '_'));
    Ok(words.filter(|word| !word.is_empty()).count())
}

fn truncate(value: &Value, given: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let mut arguments = Arguments::new(given)?;
    let number = |value: Option<Value>, usual: usize| -> Result<usize, Error> {
        value.map_or(Ok(usual), usize::try_from)
    };
    let length = number(arguments.next("length")?, 255)?;
    let kill_words = arguments.next("killwords")?.is_some_and(|value| value.is_true());
    let end = arguments.next("end")?.map(|it| text(&it)).transpose()?;
    let end = end.unwrap_or_else(|| "...".to_owned());
    let leeway = arguments.next("leeway")?.filter(|leeway| !leeway.is_none());
    let leeway = number(leeway, 5)?;
    arguments.end()?;
    let value = text(value)?;
    let room = length.checked_sub(end.chars().count());
    let room = room.ok_or_else(|| wrong("truncate: `end` is longer than `length`"))?;
    if value.chars().count() <= length.saturating_add(leeway) {
        return Ok(value);
    }
    let cut: String = value.chars().take(room).collect();
    Ok(match cut.rsplit_once(' ') {
        Some((words, _)) if !kill_words => format!("{words}{end}"),
        _ => cut + &end,
    })
}

/// Converts to an integer, or to the default if that is impossible.
fn int(value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let mut arguments = Arguments::new(given)?;
    let otherwise = arguments.next("default")?.unwrap_or_else(|| Value::from(0));
    let base = arguments.next("base")?.map_or(Ok(10), u32::try_from)?;
    arguments.end()?;
    if !(2..=36).contains(&base) {
        return Err(wrong("int: `base` takes a number from 2 to 36"));
    }
    let float = match (value.kind(), value.as_str()) {
        (ValueKind::Bool, _) => return Ok(Value::from(i64::from(value.is_true()))),
        (ValueKind::Number, _) if value.is_integer() => return Ok(value.clone()),
        (ValueKind::Number, _) => f64::try_from(value.clone())?,
        (_, Some(text)) => match (parse_int(text, base), parse_float(text)) {
            (Some(number), _) => return Ok(Value::from(number)),
            (None, Some(number)) => number,
            (None, None) => return Ok(otherwise),
        },
        _ => return Ok(otherwise),
    };
    match float.is_finite() && float.abs() < i64::MAX as f64 {
        true => Ok(Value::from(float as i64)),
        false => Ok(otherwise),
    }
}

fn float(value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let mut arguments = Arguments::new(given)?;
    let otherwise = arguments.next("default")?.unwrap_or_else(|| Value::from(0.0));
    arguments.end()?;
    let number = match (value.kind(), value.as_str()) {
        (ValueKind::Bool, _) => Some(f64::from(u8::from(value.is_true()))),
        (ValueKind::Number, _) => f64::try_from(value.clone()).ok(),
        (_, Some(text)) => parse_float(text),
        _ => None,
    };
    Ok(number.map_or(otherwise, Value::from))
}

/// A number as Python accepts it: white space around it, single underscores between digits.
fn plain(text: &str) -> Option<String> {
    let text = text.trim();
    let odd = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (!odd).then(|| text.replace('_', ""))
}

fn parse_int(text: &str, base: u32) -> Option<i64> {
    let text = plain(text)?;
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(&text)),
    };
    let prefix = match base {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        _ => "",
    };
    let lower = digits.to_lowercase();
    let digits = lower.strip_prefix(prefix).unwrap_or(&lower);
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), base).ok()
}

fn parse_float(text: &str) -> Option<f64> {
    plain(text)?.parse().ok()
}
