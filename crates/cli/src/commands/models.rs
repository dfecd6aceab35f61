//! The models there are.

use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

use threadrunner_core::protocol::{Op, ProcessList};
use threadrunner_core::{BackendKind, ExitCode};
use threadrunner_home::{Config, Home, list_models, resolve_model};

use crate::app::with_session;
use crate::args::Plain;
use crate::error::CommandResult;
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

pub(crate) fn run(args: Plain) -> CommandResult {
    let home = Home::from_env()?;
    let config = Config::load(&home)?;
    let files = list_models(&home)?;
    // That none can be chosen is for whoever needs one to hear.
    let default = resolve_model(&home, &config, BackendKind::Llama, None).ok();
    let default = default.and_then(|model| model.path);
    with_session(home, None, async |session| {
        // What is loaded is a bonus; without a daemon nothing is.
        let running = session.call_running::<ProcessList>(Op::Ps).await.ok().flatten();
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
        match args.json {
            true => output::print_json(&listing)?,
            false => print(&listing)?,
        }
        Ok(ExitCode::Success)
    })
}

fn print(listing: &Listing) -> std::io::Result<()> {
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
        output::say(&format!(
            "no models: put a GGUF file into {}, or run scripts/quickstart",
            listing.directory.display()
        ));
        return Ok(());
    }
    output::print(&table.to_text(output::width()))
}
