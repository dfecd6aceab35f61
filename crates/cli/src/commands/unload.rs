//! `unload`: unloads one model or all. The engine's process ends, which frees its memory.

use threadrunner_core::ExitCode;
use threadrunner_core::protocol::{KeptModel, ModelQuery, Unloaded, ask};
use threadrunner_home::{AskedModel, Home};

use crate::args::UnloadArgs;
use crate::error::CommandResult;
use crate::output;
use crate::session::with_session;

pub(crate) fn run(args: UnloadArgs) -> CommandResult {
    let home = Home::from_env()?;
    let named = args.model.clone();
    let query = match args.model {
        None => ModelQuery { backend: args.backend, model: None, draft: None },
        Some(name) => match AskedModel::named(&home, None, args.backend, Some(&name)) {
            Ok(AskedModel { backend, path, .. }) => {
                // The dummy has no path and goes by its name.
                ModelQuery { backend: Some(backend), model: path.or(Some(name)), draft: None }
            }
            // The file may be gone since it was loaded. The daemon still knows the name.
            Err(_) => ModelQuery { backend: args.backend, model: Some(name), draft: None },
        },
    };
    with_session(home, None, async |session| {
        let unloaded = session.call_running(ask::Unload(query)).await?.unwrap_or_default();
        if args.json {
            output::print_json(&unloaded)?;
            return Ok(ExitCode::Success);
        }
        let names: String = unloaded.models.iter().map(|name| format!("{name}\n")).collect();
        output::print(&names)?;
        unloaded.kept.iter().for_each(|kept| output::say(&stays(kept)));
        match named {
            Some(name) if unloaded.models.is_empty() => {
                output::say(&format!("{name} is not loaded"))
            }
            None if unloaded == Unloaded::default() => output::say("no model is loaded"),
            _ => {}
        }
        Ok(ExitCode::Success)
    })
}

/// Says why a model is still loaded.
fn stays(kept: &KeptModel) -> String {
    let name = &kept.name;
    let why = match (kept.pinned, kept.running) {
        (true, 0) => "it is pinned".to_owned(),
        (true, _) => "it is pinned, and busy".to_owned(),
        (false, 1) => "it is busy with 1 job".to_owned(),
        (false, running) => format!("it is busy with {running} jobs"),
    };
    format!("{name} stays loaded: {why}; `threadrunner unload {name}` unloads it anyway")
}
