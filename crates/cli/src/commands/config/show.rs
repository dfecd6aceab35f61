//! `config show`: prints every key with the value in effect.

use std::env;

use serde_json::json;
use threadrunner_core::ExitCode;
use threadrunner_home::{Config, Home};

use crate::args::ShowConfigArgs;
use crate::config_changes::changed_keys;
use crate::error::CommandResult;
use crate::output;

/// Environment variables, and what they override.
const VARIABLES: [(&str, &str); 4] = [
    ("THREADRUNNER_MODEL_PATH", "model"),
    ("THREADRUNNER_BACKEND", "backend"),
    ("THREADRUNNER_WORKSPACE", "the path of the default workspace"),
    ("THREADRUNNER_SOCKET", "the path of the socket"),
];

pub(super) fn run(args: ShowConfigArgs) -> CommandResult {
    let home = Home::from_env()?;
    let text = if args.defaults { None } else { Config::text(&home)? };
    Config::read(text.as_deref().unwrap_or_default(), &home)?;
    let set = VARIABLES.map(|(name, what)| (name, env::var(name).unwrap_or_default(), what));
    let set = set.iter().filter(|(_, value, _)| !value.is_empty());
    if args.json {
        let environment: serde_json::Map<_, _> =
            set.map(|(name, value, _)| ((*name).to_owned(), value.as_str().into())).collect();
        output::print_json(&json!({
            "path": home.config_file,
            "exists": text.is_some(),
            "changed": changed_keys(&home),
            "environment": environment,
            "settings": Config::settings(text.as_deref().unwrap_or_default()),
        }))?;
        return Ok(ExitCode::Success);
    }
    let about = match text {
        Some(_) => "",
        None if args.defaults => " may set any of these",
        None => " (does not exist: defaults)",
    };
    let mut shown = format!("# {}{about}\n", home.config_file.display());
    for (name, value, what) in set {
        shown.push_str(&format!("# {name}={value} overrides {what}\n"));
    }
    shown.push_str(&Config::describe(text.as_deref().unwrap_or_default()));
    output::print(&shown)?;
    Ok(ExitCode::Success)
}
