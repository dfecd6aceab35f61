//! Shows every key of `config.toml` with its value in effect.

use std::fmt::Write;

use toml::{Table, Value};

use crate::Config;

/// Every key with its default, or commented out with an example, and what it is for. The manual
/// quotes this file.
const EVERY_KEY: &str = include_str!("every_key.toml");

/// Tables whose keys, or whose subtables, the user names.
const NAMED: [&str; 3] = ["aliases", "models", "workspaces"];

/// The column in which comments start.
const COMMENTS: usize = 40;

impl Config {
    /// A `config.toml` that sets nothing: every key is commented out.
    pub fn template() -> String {
        let mut text = String::new();
        for line in EVERY_KEY.lines() {
            let commented = if line.is_empty() || line.starts_with('#') { "" } else { "# " };
            // Writing to a string never fails.
            let _ = writeln!(text, "{commented}{line}");
        }
        text
    }

    /// Describes every key to a person: what `text`, a `config.toml` without mistakes, sets; the
    /// defaults; and a commented-out example of each key that is not set.
    pub fn describe(text: &str) -> String {
        let own: Table = text.parse().unwrap_or_default();
        let mut shown = String::new();
        // The table that the lines are in, and whether the user's own tables were shown instead.
        let (mut table, mut replaced) = (None, false);
        for line in EVERY_KEY.lines() {
            if let Some(name) = header(line) {
                table = Some(root(name));
                replaced = false;
                if NAMED.contains(&root(name)) {
                    match own.get(root(name)).and_then(Value::as_table) {
                        Some(named) if !named.is_empty() => {
                            shown.push_str(&users(root(name), named));
                            replaced = true;
                        }
                        _ => shown.push_str(&format!("# {line}\n")),
                    }
                    continue;
                }
            }
            if replaced && !line.is_empty() {
                continue;
            }
            let scope = match table {
                None => Some(&own),
                Some(name) if NAMED.contains(&name) => None,
                Some(name) => own.get(name).and_then(Value::as_table),
            };
            let set = key(line).and_then(|key| Some((key, scope?.get(key)?)));
            let _ = match set {
                Some((key, value)) => {
                    let comment = line.split_once("  #").map_or("", |(_, comment)| comment.trim());
                    let comment = ["set", comment].join(if comment.is_empty() { "" } else { ": " });
                    writeln!(shown, "{:<COMMENTS$}# {comment}", format!("{key} = {value}"))
                }
                None => writeln!(shown, "{line}"),
            };
        }
        shown
    }

    /// The settings in effect, for a program: the defaults, overridden by `text`.
    pub fn settings(text: &str) -> Table {
        let own: Table = text.parse().unwrap_or_default();
        let mut settings: Table = EVERY_KEY.parse().unwrap_or_default();
        // The names in them are only examples.
        for name in NAMED {
            settings.insert(name.to_owned(), Value::Table(Table::new()));
        }
        for (key, value) in own {
            match value {
                Value::Table(own) => {
                    if let Some(Value::Table(defaults)) = settings.get_mut(&key) {
                        defaults.extend(own);
                    }
                }
                value => {
                    settings.insert(key, value);
                }
            }
        }
        settings
    }

    /// The table that has a key of this name; `""` is the top of the file.
    pub(crate) fn table_of(key: &str) -> Option<&'static str> {
        let mut table = "";
        for line in EVERY_KEY.lines() {
            match header(line) {
                Some(name) => table = name,
                None if self::key(line) == Some(key) && table != "aliases" => return Some(table),
                None => {}
            }
        }
        None
    }
}

/// The user's tables of one kind.
fn users(kind: &str, named: &Table) -> String {
    let mut text = String::new();
    if kind == "aliases" {
        text.push_str("[aliases]\n");
        text.extend(named.iter().map(|(key, value)| format!("{} = {value}\n", quoted(key))));
        return text;
    }
    for (at, (name, table)) in named.iter().enumerate() {
        let space = if at > 0 { "\n" } else { "" };
        let _ = writeln!(text, "{space}[{kind}.{}]", quoted(name));
        let keys = table.as_table().into_iter().flatten();
        text.extend(keys.map(|(key, value)| format!("{} = {value}\n", quoted(key))));
    }
    text
}

/// A key as TOML writes it: quoted if it has anything but letters, digits, `-` and `_`.
fn quoted(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match !key.is_empty() && key.bytes().all(bare) {
        true => key.to_owned(),
        false => Value::String(key.to_owned()).to_string(),
    }
}

/// The name in a table's header, `[NAME]`.
pub(super) fn header(line: &str) -> Option<&str> {
    Some(line.trim_start().strip_prefix('[')?.split_once(']')?.0.trim())
}

/// The first part of a table's name.
fn root(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// The key that a line sets, or would set if it were not commented out.
fn key(line: &str) -> Option<&str> {
    let line = line.strip_prefix("# ").unwrap_or(line);
    Some(line.split_once(" = ")?.0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("config.toml")).unwrap()
    }

    #[test]
    fn what_is_shown_means_the_same() {
        for text in [
            "",
            "idle_timeout = 7\nmodel = \"a b\"\n",
            "[engine]\nthreads = 2\n[sessions]\nstate_bytes = 0\n",
            "[defaults]\nstop = [\"a\\\"b\", \"#\"]\ntemperature = 0.5\n",
            "[aliases]\nsmall = \"x.gguf\"\n\"a.b\" = \"y\"\n",
            "[models.x]\npin = true\n[models.\"y z\"]\nkeep_alive = \"1h30m\"\n",
            "[workspaces.code]\nsystem = \"one\\ntwo\"\n[workspaces.code.retention]\nmax_jobs = 1\n\
             [workspaces.b]\n",
        ] {
            let shown = Config::describe(text);
            assert_eq!(config(&shown), config(text), "{shown}");
        }
    }

    #[test]
    fn what_is_set_is_marked_and_what_is_not_is_there_too() {
        let shown = Config::describe("grace = \"1m\"\n[engine]\nthreads = 3\n");
        let line = |start: &str| shown.lines().find(|line| line.starts_with(start)).unwrap();
        assert!(line("grace = \"1m\" ").contains("# set: how long running jobs may"), "{shown}");
        assert!(line("threads = 3 ").ends_with("# set"), "{shown}");
        assert!(!line("idle_timeout = \"5m\"").contains("set"), "{shown}");
        assert!(line("# context = 4096").contains("cells"), "{shown}");
        assert!(shown.contains("# [models.small]"), "{shown}");
    }

    #[test]
    fn the_template_sets_nothing_and_every_default_is_the_programs() {
        assert_eq!(config(&Config::template()), Config::default());
        let defaults = EVERY_KEY.replace("[models.small]", "").replace("[workspaces.code]", "");
        assert_eq!(config(&defaults), Config::default());
        // Every example can be uncommented.
        let examples: String = EVERY_KEY
            .lines()
            .map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line)))
            .collect();
        assert_eq!(config(&examples).models["small"].draft.as_deref(), Some("tiny"));
    }

    #[test]
    fn every_parameter_has_its_line() {
        for option in threadrunner_core::Parameters::OPTIONS {
            assert_eq!(Config::table_of(option.key), Some("defaults"), "{}", option.key);
        }
    }

    #[test]
    fn for_a_program_the_defaults_are_there_too() {
        let settings = Config::settings("grace = 1\n[engine]\nthreads = 3\n");
        assert_eq!(settings["grace"].as_integer(), Some(1));
        assert_eq!(settings["idle_timeout"].as_str(), Some("5m"));
        assert_eq!(settings["engine"]["threads"].as_integer(), Some(3));
        assert!(settings["models"].as_table().unwrap().is_empty());
    }

    #[test]
    fn a_key_is_known_by_its_table() {
        for (key, table) in [
            ("idle_timeout", Some("")),
            ("temperature", Some("defaults")),
            ("keep_alive", Some("models.small")),
            ("small", None),
            ("nonsense", None),
        ] {
            assert_eq!(Config::table_of(key), table);
        }
    }
}
