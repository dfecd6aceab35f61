//! Describes the mistakes in a `config.toml`, and how to fix them.

use std::path::Path;

use threadrunner_core::protocol::in_plain_words;
use threadrunner_core::{ErrorCode, Failure};

use super::show::header;
use crate::Config;

/// The maximum number of names that are listed in full.
const FEW: usize = 8;

/// A mistake whose line is unknown.
pub(super) fn wrong(path: &Path, message: &str) -> Failure {
    failure(path.display().to_string(), message).hint(USUAL_HINT)
}

/// A file that is none that could be read. Knowing the keys does not help.
pub(super) fn unreadable(path: &Path, message: &str) -> Failure {
    failure(path.display().to_string(), message)
}

/// A mistake found while parsing `text`.
pub(super) fn misread(path: &Path, text: &str, error: &toml::de::Error) -> Failure {
    let message = error.message();
    let Some(at) = error.span().map(|span| span.start.min(text.len())) else {
        return wrong(path, message);
    };
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count();
    let place = format!("{}, line {}", path.display(), line + 1);
    let table = before.lines().rev().find_map(header).unwrap_or_default();
    if let Some((name, known)) = unknown_name(message, "field") {
        return failure(place, &format!("there is no key '{name}'{}", within(table)))
            .hint(other_key(name, table, &known));
    }
    if let Some((name, known)) = unknown_name(message, "variant") {
        let message = format!("'{name}' is not one of {}", known.join(", "));
        return match nearest(name, &known) {
            Some(near) => failure(place, &message).hint(format!("did you mean \"{near}\"?")),
            None => failure(place, &message).hint(USUAL_HINT),
        };
    }
    let pair = text.lines().nth(line).and_then(|line| line.split_once('='));
    let Some((key, value)) = pair.map(|(key, value)| (key.trim(), value.trim())) else {
        return failure(place, message).hint(USUAL_HINT);
    };
    if let Some(quoted) = in_quotes(value, message) {
        return failure(place, &format!("the value of {key} is a text, and needs quotes"))
            .hint(format!("write `{key} = {quoted}`"));
    }
    let plain = in_plain_words(message);
    let plain = match plain.starts_with("must be ") {
        true => format!("{key} {plain}"),
        false => plain,
    };
    // A top-level key below a table's header is parsed as that table's.
    match misplaced(key, table) {
        Some(hint) => failure(place, &plain).hint(hint),
        None => failure(place, &plain).hint(USUAL_HINT),
    }
}

/// The value in quotes, if it is a bare word or an amount with a unit that the parser refused.
fn in_quotes(value: &str, message: &str) -> Option<String> {
    let value = value.split_once('#').map_or(value, |(value, _)| value).trim();
    let bare = |c: char| c.is_alphanumeric() || " -_./~:%".contains(c);
    let is_word = value.starts_with(|c: char| c.is_alphanumeric() || "./~".contains(c));
    let refused = ["invalid type", "invalid value"].iter().all(|it| !message.starts_with(it));
    let is_text = value.parse::<f64>().is_err() && !matches!(value, "true" | "false");
    (refused && is_word && is_text && value.chars().all(bare)).then(|| format!("\"{value}\""))
}

const USUAL_HINT: &str = "`threadrunner config show --defaults` lists every key";

fn failure(place: String, message: &str) -> Failure {
    Failure::new(ErrorCode::Config, format!("{place}: {}", message.trim_end()))
}

/// Parses serde's message about an unknown name: the name, and the known ones.
fn unknown_name<'a>(message: &'a str, kind: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let rest = message.strip_prefix("unknown ")?.strip_prefix(kind)?.strip_prefix(" `")?;
    let (name, rest) = rest.split_once('`')?;
    Some((name, rest.split('`').skip(1).step_by(2).collect()))
}

fn within(table: &str) -> String {
    match table {
        "" => String::new(),
        table => format!(" in [{table}]"),
    }
}

fn other_key(name: &str, table: &str, known: &[&str]) -> String {
    if let Some(hint) = misplaced(name, table) {
        return hint;
    }
    // The dummy's script is only for tests.
    let known: Vec<_> = known.iter().copied().filter(|known| *known != "dummy").collect();
    match nearest(name, &known) {
        Some(near) => format!("did you mean '{near}'?"),
        None if known.len() <= FEW => format!("known keys: {}", known.join(", ")),
        None => USUAL_HINT.to_owned(),
    }
}

/// Where a key belongs that does not belong in `table`.
fn misplaced(key: &str, table: &str) -> Option<String> {
    match Config::table_of(key)? {
        "" if table.is_empty() => None,
        "" => Some(format!("'{key}' belongs above the first [table]")),
        "models.small" if !table.starts_with("models") => {
            Some(format!("'{key}' belongs under [models.NAME]"))
        }
        "workspaces.code" if !table.starts_with("workspaces") => {
            Some(format!("'{key}' belongs under [workspaces.NAME]"))
        }
        "models.small" | "workspaces.code" => None,
        place if place == table => None,
        place => Some(format!("'{key}' belongs under [{place}]")),
    }
}

/// The known name that was probably meant.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let score = |known: &str| strsim::jaro_winkler(&name.to_lowercase(), known);
    let best = known.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.8).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> (String, String) {
        let failure = Config::parse(text, Path::new("/h/config.toml")).unwrap_err();
        assert_eq!(failure.code, ErrorCode::Config);
        (failure.message, failure.hint.unwrap_or_default())
    }

    #[test]
    fn a_misspelt_key_is_answered_with_the_right_one() {
        for (text, message, hint) in [
            ("modle = \"x\"", "line 1: there is no key 'modle'", "did you mean 'model'?"),
            ("\nidle-timeout = 1", "line 2: there is no key 'idle-timeout'", "'idle_timeout'?"),
            ("[engine]\ncontxt = 1", "line 2: there is no key 'contxt' in [engine]", "'context'?"),
            ("[defaults]\n\ntemprature = 1", "'temprature' in [defaults]", "'temperature'?"),
            ("[workspaces.a]\nmodl = \"m\"", "'modl' in [workspaces.a]", "'model'?"),
            ("[retenton]\nmax_jobs = 1", "line 1: there is no key 'retenton'", "'retention'?"),
            ("durability = \"durabel\"", "'durabel' is not one of durable", "\"durable\"?"),
            ("[sessions]\nxyz = 1", "'xyz' in [sessions]", "known keys: state_bytes"),
            ("xyz = 1", "'xyz'", "config show"),
        ] {
            let (said, advice) = told(text);
            assert!(said.starts_with("/h/config.toml, line "), "{said}");
            assert!(said.contains(message), "{said}");
            assert!(advice.contains(hint), "{text}: {advice}");
        }
    }

    #[test]
    fn a_wrong_value_is_told_in_plain_words() {
        for (text, message, hint) in [
            ("[engine]\ncontext = \"4096\"", "context must be a whole number", "config show"),
            ("[defaults]\ntemperature = \"hot\"", "temperature must be a number", ""),
            ("max_queue = 1e6", "max_queue must be a whole number from 0, not 1000000", ""),
            ("max_queue = -1", "max_queue must be a whole number from 0 to", ""),
            ("idle_timeout = 5m", "needs quotes", "write `idle_timeout = \"5m\"`"),
            ("grace = 10 s # short", "needs quotes", "write `grace = \"10 s\"`"),
            ("model = small", "needs quotes", "write `model = \"small\"`"),
            ("memory_budget = 70%", "needs quotes", "write `memory_budget = \"70%\"`"),
            ("idle_timeout = \"soon\"", "is not a duration", ""),
            ("[retention]\nmax_age = \"0s\"", "max_age is 0", ""),
            ("[workspaces.w.retention]\nmax_age = 0", "workspaces.w.retention", ""),
            ("[engine]\nthreads = 100000", "threads is 100000", ""),
        ] {
            let (said, advice) = told(text);
            assert!(said.contains(message), "{text}: {said}");
            assert!(advice.contains(hint), "{text}: {advice}");
            for rust in ["u32", "u64", "invalid type", "literal", "sequence"] {
                assert!(!said.contains(rust), "{text}: {said}");
            }
        }
        assert!(Config::parse("memory_budget = \"8G\"", Path::new("c")).is_ok());
    }

    #[test]
    fn a_key_in_the_wrong_table_is_answered_with_the_right_one() {
        for (text, hint) in [
            ("temperature = 0.5", "'temperature' belongs under [defaults]"),
            ("keep_alive = \"5m\"", "'keep_alive' belongs under [models.NAME]"),
            ("[engine]\nidle_timeout = 5", "'idle_timeout' belongs above the first [table]"),
            ("[models.x]\nthreads = 5", "'threads' belongs under [engine]"),
            // Here it is an alias, and only its value is wrong.
            ("[aliases]\ngrace = 5", "'grace' belongs above the first [table]"),
        ] {
            assert_eq!(told(text).1, hint, "{text}");
        }
    }
}
