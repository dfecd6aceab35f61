//! `config check`: reports mistakes in the configuration.

use std::fs;

use serde_json::json;
use threadrunner_core::ExitCode;
use threadrunner_home::{Config, Home};

use crate::args::CheckArgs;
use crate::error::{CommandError, CommandResult};
use crate::output;

pub(super) fn run(args: CheckArgs) -> CommandResult {
    let mut home = Home::from_env()?;
    if let Some(file) = args.file {
        if let Err(error) = fs::metadata(&file) {
            let message = format!("cannot read {}: {error}", file.display());
            return Err(CommandError::usage(message, "leave it out to check config.toml"));
        }
        home.config_file = file;
    }
    let text = Config::text(&home)?;
    let config = Config::read(text.as_deref().unwrap_or_default(), &home)?;
    let dangling = config.dangling_names(&home);
    if args.json {
        let warnings: Vec<_> =
            dangling.iter().map(|(key, failure)| json!({"key": key, "error": failure})).collect();
        output::print_json(&json!({
            "path": home.config_file,
            "exists": text.is_some(),
            "warnings": warnings,
        }))?;
        return Ok(ExitCode::Success);
    }
    let path = home.config_file.display();
    match text {
        Some(_) => output::print(&format!("{path}: no mistakes\n"))?,
        None => output::print(&format!("{path} does not exist: the defaults apply\n"))?,
    }
    for (key, failure) in dangling {
        output::say(&format!("warning: {key}: {}", failure.message));
        if let Some(hint) = &failure.hint {
            output::hint(hint);
        }
    }
    Ok(ExitCode::Success)
}
