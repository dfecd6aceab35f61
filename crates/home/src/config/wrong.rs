//! Describes the mistakes in a `config.toml`, and how to fix them.

use std::path::Path;

use threadrunner_core::{ErrorCode, Failure};

use super::show::header;
use crate::Config;

/// The maximum number of names that are listed in full.
const FEW: usize = 8;

/// A mistake whose line is unknown.
pub(super) fn wrong(path: &Path, message: &str) -> Failure {
    failure(path.display().to_string(), message).hint(USUAL_HINT)
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
    // A top-level key below a table's header is parsed as that table's.
    let key = text.lines().nth(line).and_then(|line| line.split_once('='));
    match key.and_then(|(key, _)| misplaced(key.trim(), table)) {
        Some(hint) => failure(place, message).hint(hint),
        None => failure(place, message).hint(USUAL_HINT),
    }
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
