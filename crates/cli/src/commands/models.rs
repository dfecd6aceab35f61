//! `models`: lists the models, and shows or sets the default one.

use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

use threadrunner_core::ExitCode;
use threadrunner_core::protocol::ask;
use threadrunner_home::{
    ChosenBy, Config, Home, choose_model, dangling_links, default_model, list_models,
    where_to_get_one,
};

use crate::args::{DefaultArgs, ModelsArgs, ModelsCommand};
use crate::error::CommandResult;
use crate::session::with_session;
use crate::table::Table;
use crate::{format, output};

#[derive(Debug, Serialize)]
struct Listing {
    directory: PathBuf,
    models: Vec<Entry>,
    aliases: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    path: PathBuf,
    file_bytes: u64,
    default: bool,
    loaded: bool,
}

/// The model that answers if none is named.
#[derive(Debug, Serialize)]
struct Default {
    name: String,
    path: PathBuf,
    /// How it was chosen.
    chosen_by: &'static str,
}

pub(crate) fn run(args: ModelsArgs) -> CommandResult {
    let home = Home::from_env()?;
    match args.command {
        Some(ModelsCommand::Default(default)) => choose(&home, &default),
        None => list(home, args.json),
    }
}

fn choose(home: &Home, args: &DefaultArgs) -> CommandResult {
    if let Some(name) = &args.model {
        home.create()?;
        choose_model(home, name)?;
    }
    let (path, by) = default_model(home, &Config::load(home)?)?;
    let (chosen_by, why) = match by {
        ChosenBy::Variable if args.model.is_some() => (
            "variable",
            "written to config.toml, but THREADRUNNER_MODEL_PATH is set and goes first",
        ),
        ChosenBy::Variable => ("variable", "set by THREADRUNNER_MODEL_PATH, before config.toml"),
        ChosenBy::Configuration => ("configuration", "set in config.toml"),
        ChosenBy::Only => ("only", "the only model"),
        ChosenBy::LastUse => ("last_use", "the model used last"),
    };
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if args.json {
        output::print_json(&Default { name, path, chosen_by })?;
    } else {
        output::print(&format!("{}\n", format::one_line(&name)))?;
        output::say(why);
    }
    Ok(ExitCode::Success)
}

fn list(home: Home, json: bool) -> CommandResult {
    let config = Config::load(&home)?;
    let files = list_models(&home)?;
    for link in dangling_links(&home) {
        output::say(&format!("{}: {}", link.path.display(), link.why));
    }
    // Having no default is an error only for commands that need a model.
    let default = default_model(&home, &config).ok().map(|(path, _)| path);
    with_session(home, None, async |session| {
        // Best effort: without a daemon, nothing is loaded.
        let running = session.call_running(ask::Ps).await.ok().flatten();
        let loaded: Vec<_> =
            running.unwrap_or_default().models.into_iter().filter_map(|m| m.model.path).collect();
        let models = files
            .into_iter()
            .map(|file| {
                let path = file.path.canonicalize().unwrap_or_else(|_| file.path.clone());
                Entry {
                    default: default.as_ref() == Some(&path),
                    loaded: loaded.contains(&path),
                    name: file.name,
                    path: file.path,
                    file_bytes: file.bytes,
                }
            })
            .collect();
        let directory = session.home().models_dir.clone();
        let listing = Listing { directory, models, aliases: config.aliases };
        match json {
            true => output::print_json(&listing)?,
            false => print(&listing, session.home())?,
        }
        Ok(ExitCode::Success)
    })
}

fn print(listing: &Listing, home: &Home) -> std::io::Result<()> {
    let mut table = Table::new(["NAME", "SIZE", "", "PATH"]);
    for model in &listing.models {
        let marks = match (model.default, model.loaded) {
            (true, true) => "default, loaded",
            (true, false) => "default",
            (false, true) => "loaded",
            (false, false) => "",
        };
        table.row([
            format::one_line(&model.name),
            format::bytes(model.file_bytes),
            marks.to_owned(),
            model.path.display().to_string(),
        ]);
    }
    for (alias, target) in &listing.aliases {
        table.row([alias.clone(), String::new(), "alias".to_owned(), target.clone()]);
    }
    if table.is_empty() {
        output::say("no models");
        output::say(&where_to_get_one(home));
        return Ok(());
    }
    output::print(&table.to_text(output::width()))
}
