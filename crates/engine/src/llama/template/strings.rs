//! Python's string methods that `minijinja-contrib` lacks or implements differently.

use minijinja::value::{Kwargs, Tuple, from_args};
use minijinja::{Error, ErrorKind, Value};

use super::limits::{self, MOST_WIDTH};
use super::repr::{is_printable, str_of};

/// Calls a method; `None` if it is not one of these.
pub(super) fn method(text: &str, name: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    let result = match name {
        "startswith" | "endswith" => edge(text, name == "startswith", args).map(Value::from),
        "find" | "rfind" | "index" | "rindex" => search(text, name, args),
        "count" => count(text, args).map(Value::from),
        "split" | "rsplit" => split(text, name == "rsplit", args),
        "splitlines" => lines(text, args),
        "partition" | "rpartition" => partition(text, name == "partition", args),
        "strip" | "lstrip" | "rstrip" => strip(text, name, args),
        "removeprefix" => from_args(args)
            .map(|(what,): (&str,)| Value::from(text.strip_prefix(what).unwrap_or(text))),
        "removesuffix" => from_args(args)
            .map(|(what,): (&str,)| Value::from(text.strip_suffix(what).unwrap_or(text))),
        "center" | "ljust" | "rjust" => pad(text, name, args),
        "zfill" => from_args(args).and_then(|(width,): (i64,)| fill_zeros(text, width)),
        "expandtabs" => expand_tabs(text, args),
        "join" => from_args(args).and_then(|(items,): (&Value,)| join(text, items)),
        "swapcase" | "title" | "casefold" | "istitle" | "isdigit" | "isdecimal" | "isspace"
        | "isidentifier" | "isprintable" => from_args(args).map(|()| without_arguments(text, name)),
        "format" => return check_format(text, args).err().map(Err),
        _ => return None,
    };
    Some(result)
}

fn without_arguments(text: &str, name: &str) -> Value {
    let all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    match name {
        "swapcase" => Value::from(swap_case(text)),
        "title" => Value::from(title(text)),
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "istitle" => Value::from(text.contains(is_cased) && title(text) == text),
        "isdigit" => Value::from(all(is_digit)),
        "isdecimal" => Value::from(all(is_decimal)),
        "isspace" => Value::from(all(is_space)),
        "isidentifier" => {
            let begins = text.starts_with(|it: char| it.is_alphabetic() || it == '_');
            Value::from(begins && all(|it| it.is_alphanumeric() || it == '_'))
        }
        _ => Value::from(text.chars().all(is_printable)),
    }
}

fn wrong(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

/// White space by Python's definition.
fn is_space(it: char) -> bool {
    it.is_whitespace() || ('\x1c'..='\x1f').contains(&it)
}

fn is_cased(it: char) -> bool {
    it.is_uppercase() || it.is_lowercase()
}

/// A digit, including superscripts and subscripts, but no fraction or Roman numeral.
fn is_digit(it: char) -> bool {
    it.is_numeric() && !matches!(it, '\u{bc}'..='\u{be}' | '\u{2150}'..='\u{218b}')
}

fn is_decimal(it: char) -> bool {
    is_digit(it) && !matches!(it, '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{2070}'..='\u{209f}')
}

fn swap_case(text: &str) -> String {
    let mut swapped = String::with_capacity(text.len());
    for it in text.chars() {
        match it.is_uppercase() {
            true => swapped.extend(it.to_lowercase()),
            false => swapped.extend(it.to_uppercase()),
        }
    }
    swapped
}

/// Capitalizes each letter that does not follow a letter, as in `They'Re`.
fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut in_word = false;
    for it in text.chars() {
        match in_word {
            true => titled.extend(it.to_lowercase()),
            false => titled.extend(it.to_uppercase()),
        }
        in_word = is_cased(it);
    }
    titled
}

/// The part of a text between two character positions, and the number of characters before it;
/// `None` if it would begin after its end.
fn window(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(&str, usize)> {
    if start.is_none() && end.is_none() {
        return Some((text, 0));
    }
    let length = text.chars().count() as i64;
    let place = |at: i64| if at < 0 { (at + length).max(0) } else { at };
    let start = place(start.unwrap_or(0));
    let end = place(end.unwrap_or(length)).min(length);
    if start > end {
        return None;
    }
    let byte = |at: i64| text.char_indices().nth(at as usize).map_or(text.len(), |(byte, _)| byte);
    Some((&text[byte(start)..byte(end)], start as usize))
}

fn edge(text: &str, first: bool, args: &[Value]) -> Result<bool, Error> {
    let (what, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
    let part = window(text, start, end).map(|(part, _)| part);
    let is = |what: &Value| -> Result<bool, Error> {
        let what = what.as_str().ok_or_else(|| wrong("startswith and endswith take strings"))?;
        Ok(part.is_some_and(|part| match first {
            true => part.starts_with(what),
            false => part.ends_with(what),
        }))
    };
    if what.as_str().is_some() {
        return is(what);
    }
    for one in what.try_iter()? {
        if is(&one)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Counts characters, not bytes, as in Python: templates slice by the result, as in
/// `content[:content.find("x")]`.
fn search(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let found = window(text, start, end).and_then(|(part, before)| {
        let at = if name.starts_with('r') { part.rfind(what) } else { part.find(what) };
        at.map(|at| before + part[..at].chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if name.ends_with("find") => Ok(Value::from(-1)),
        None => Err(wrong("substring not found")),
    }
}

fn count(text: &str, args: &[Value]) -> Result<usize, Error> {
    let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    Ok(window(text, start, end).map_or(0, |(part, _)| part.matches(what).count()))
}

fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, most, named): (Option<&Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        Some(separator) => Some(separator.clone()),
        None => named.get("sep")?,
    };
    let most = match most {
        Some(most) => Some(most),
        None => named.get("maxsplit")?,
    };
    named.assert_all_used()?;
    let separator = match &separator {
        Some(separator) if !separator.is_none() => {
            Some(separator.as_str().ok_or_else(|| wrong("the separator is not a string"))?)
        }
        _ => None,
    };
    // Python limits the number of cuts, Rust the number of pieces. A negative limit means none.
    let pieces =
        most.and_then(|most| usize::try_from(most).ok()).map(|most| most.saturating_add(1));
    let parts: Vec<&str> = match (separator, pieces) {
        (Some(""), _) => return Err(wrong("empty separator")),
        (Some(separator), None) => text.split(separator).collect(),
        (Some(separator), Some(pieces)) if from_right => {
            let mut parts: Vec<&str> = text.rsplitn(pieces, separator).collect();
            parts.reverse();
            parts
        }
        (Some(separator), Some(pieces)) => text.splitn(pieces, separator).collect(),
        (None, None) => text.split(is_space).filter(|part| !part.is_empty()).collect(),
        (None, Some(pieces)) if from_right => words_from_right(text, pieces),
        (None, Some(pieces)) => words(text, pieces),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

/// The first `pieces - 1` words of a text, then its rest as one.
fn words(text: &str, pieces: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while parts.len() + 1 < pieces
        && let Some((word, after)) = rest.split_once(is_space)
    {
        parts.push(word);
        rest = after.trim_start_matches(is_space);
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}

fn words_from_right(text: &str, pieces: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while parts.len() + 1 < pieces
        && let Some((before, word)) = rest.rsplit_once(is_space)
    {
        parts.push(word);
        rest = before.trim_end_matches(is_space);
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts.reverse();
    parts
}

fn lines(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep, named): (Option<bool>, Kwargs) = from_args(args)?;
    let keep = match keep {
        Some(keep) => keep,
        None => named.get::<Option<bool>>("keepends")?.unwrap_or(false),
    };
    named.assert_all_used()?;
    let ends =
        |it: char| matches!(it, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let after = &rest[at..];
        let end = match after.starts_with("\r\n") {
            true => 2,
            false => after.chars().next().map_or(1, char::len_utf8),
        };
        lines.push(Value::from(&rest[..if keep { at + end } else { at }]));
        rest = &after[end..];
    }
    if !rest.is_empty() {
        lines.push(Value::from(rest));
    }
    Ok(Value::from(lines))
}

fn partition(text: &str, first: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    let cut = match first {
        true => text.split_once(separator),
        false => text.rsplit_once(separator),
    };
    let parts = match (cut, first) {
        (Some((before, after)), _) => [before, separator, after],
        (None, true) => [text, "", ""],
        (None, false) => ["", "", text],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

fn strip(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (what,): (Option<&str>,) = from_args(args)?;
    let goes = |it: char| what.map_or_else(|| is_space(it), |what| what.contains(it));
    let stripped = match name {
        "strip" => text.trim_matches(goes),
        "lstrip" => text.trim_start_matches(goes),
        _ => text.trim_end_matches(goes),
    };
    Ok(Value::from(stripped))
}

/// How many characters a text lacks to be `width` wide.
fn lacking(text: &str, width: i64) -> Result<usize, Error> {
    if width > MOST_WIDTH {
        return Err(wrong("the width is too large"));
    }
    Ok(usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count()))
}

fn pad(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(wrong("the fill must be one character"));
    }
    let lacking = lacking(text, width)?;
    let left = match name {
        "ljust" => 0,
        "rjust" => lacking,
        _ => lacking / 2 + (lacking & width as usize & 1),
    };
    Ok(Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(lacking - left))))
}

/// The text centered in `width` characters.
pub(super) fn center(text: &str, width: i64) -> Result<Value, Error> {
    pad(text, "center", &[Value::from(width)])
}

fn fill_zeros(text: &str, width: i64) -> Result<Value, Error> {
    let zeros = "0".repeat(lacking(text, width)?);
    let sign = if text.starts_with(['+', '-']) { &text[..1] } else { "" };
    Ok(Value::from(format!("{sign}{zeros}{}", &text[sign.len()..])))
}

fn expand_tabs(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (every,): (Option<i64>,) = from_args(args)?;
    let every = every.unwrap_or(8);
    if every > MOST_WIDTH {
        return Err(wrong("the tab size is too large"));
    }
    let every = usize::try_from(every).unwrap_or(0);
    let mut expanded = String::with_capacity(text.len());
    let mut column = 0;
    for it in text.chars() {
        match it {
            '\t' if every > 0 => {
                let spaces = every - column % every;
                limits::length(expanded.len() + spaces)?;
                expanded.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            '\t' => {}
            _ => {
                expanded.push(it);
                column = if matches!(it, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(Value::from(expanded))
}

/// Fails if `str.format` would make too long a text of these: widths and precisions are written in
/// the format, and each of its fields may show the longest value.
fn check_format(format: &str, args: &[Value]) -> Result<(), Error> {
    let mut longest = 0;
    for value in args {
        let mut text = String::new();
        str_of(value, &mut text)?;
        longest = longest.max(text.len());
    }
    let mut most = format.len();
    for field in format.split('{').skip(1) {
        let field = field.split('}').next().unwrap_or_default();
        let numbers = field.split(|it: char| !it.is_ascii_digit());
        for number in numbers.filter(|number| !number.is_empty()) {
            most = most.saturating_add(number.parse().unwrap_or(usize::MAX));
        }
        most = most.saturating_add(longest);
    }
    limits::length(most)
}

/// Joins items, converted to strings, with a separator.
pub(super) fn join(separator: &str, items: &Value) -> Result<Value, Error> {
    let mut text = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        if index > 0 {
            text.push_str(separator);
        }
        str_of(&item, &mut text)?;
        limits::length(text.len())?;
    }
    Ok(Value::from(text))
}
