//! `load`: loads a model before its first prompt.

use threadrunner_core::ExitCode;
use threadrunner_core::protocol::{LoadQuery, ModelQuery, ask};
use threadrunner_home::{AskedModel, Home};

use crate::args::LoadArgs;
use crate::error::CommandResult;
use crate::output;
use crate::session::with_session;

pub(crate) fn run(args: LoadArgs) -> CommandResult {
    let home = Home::from_env()?;
    let asked = AskedModel::named(&home, None, args.backend, args.model.as_deref())?
        .drafted_by(&home, args.draft.as_deref())?;
    let query = ModelQuery { backend: Some(asked.backend), model: asked.path, draft: asked.draft };
    let query = LoadQuery { query, pin: args.pin, keep_alive: args.keep_alive };
    with_session(home, None, async |session| {
        let loaded = session.call(ask::Load(query)).await?;
        match args.json {
            true => output::print_json(&loaded)?,
            false => output::print(&format!("{}\n", loaded.name))?,
        }
        Ok(ExitCode::Success)
    })
}
