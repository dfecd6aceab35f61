//! Unloading a model, or all: the engine's process ends and its memory is free.

use threadrunner_core::ExitCode;
use threadrunner_core::protocol::{ModelQuery, Op, Unloaded};
use threadrunner_home::Home;

use crate::app::{resolve, with_session};
use crate::args::UnloadArgs;
use crate::error::CommandResult;
use crate::output;

pub(crate) fn run(args: UnloadArgs) -> CommandResult {
    let home = Home::from_env()?;
    let query = match args.model {
        None => ModelQuery { backend: args.backend, model: None, draft: None },
        Some(name) => match resolve(&home, None, args.backend, Some(&name)) {
            Ok((backend, path)) => {
                // The dummy has no path; it is known by its name.
                ModelQuery { backend: Some(backend), model: path.or(Some(name)), draft: None }
            }
            // A file that is gone since it was loaded: the daemon knows what it has.
            Err(_) => ModelQuery { backend: args.backend, model: Some(name), draft: None },
        },
    };
    with_session(home, None, async |session| {
        let unloaded: Unloaded = session.call_running(Op::Unload(query)).await?.unwrap_or_default();
        if args.json {
            output::print_json(&unloaded)?;
        } else if unloaded.models.is_empty() {
            output::say("no model was loaded");
        } else {
            output::print(&(unloaded.models.join("\n") + "\n"))?;
        }
        Ok(ExitCode::Success)
    })
}
