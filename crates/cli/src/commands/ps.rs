//! `ps`: shows loaded models and running jobs.

use threadrunner_core::ExitCode;
use threadrunner_core::protocol::{LoadedModel, RunningJob, ask};
use threadrunner_home::Home;

use crate::args::Plain;
use crate::error::CommandResult;
use crate::session::with_session;
use crate::table::Table;
use crate::{format, output};

pub(crate) fn run(args: Plain) -> CommandResult {
    with_session(Home::from_env()?, None, async |session| {
        // Without a daemon nothing runs, so none is started to ask.
        let list = session.call_running(ask::Ps).await?.unwrap_or_default();
        if args.json {
            output::print_json(&list)?;
            return Ok(ExitCode::Success);
        }
        if list.models.is_empty() && list.running.is_empty() && list.queued + list.held == 0 {
            output::say("no model is loaded and no job is running");
            return Ok(ExitCode::Success);
        }
        let width = output::width();
        let mut text = String::new();
        if !list.models.is_empty() {
            text.push_str(&models(&list.models).to_text(width));
            text.push_str(&format!("{}\n", memory(list.memory_used, list.memory_budget)));
        }
        if !list.running.is_empty() {
            text.push_str(if text.is_empty() { "" } else { "\n" });
            text.push_str(&running(&list.running).to_text(width));
        }
        if list.queued + list.held > 0 {
            text.push_str(if text.is_empty() { "" } else { "\n" });
            text.push_str(&format!("{}\n", waiting(list.queued, list.held)));
        }
        output::print(&text)?;
        Ok(ExitCode::Success)
    })
}

/// Formats how many jobs wait: for their turn, and for other jobs to end.
pub(crate) fn waiting(queued: u32, held: u32) -> String {
    match held {
        0 => format!("{queued} queued"),
        held => format!("{queued} queued, {held} waiting for other jobs"),
    }
}

/// Formats how much memory the models take, and their budget.
pub(crate) fn memory(used: u64, budget: u64) -> String {
    format!("{} of {} for models", format::bytes(used), format::bytes(budget))
}

/// The table of loaded models.
pub(crate) fn models(models: &[LoadedModel]) -> Table<8> {
    let heads = ["MODEL", "BACKEND", "PID", "MEMORY", "CONTEXT", "CACHED", "RUNNING", "UNLOADS"];
    let mut table = Table::new(heads);
    for model in models {
        let dash = || "-".to_owned();
        let unloads = match model.unload_in_s {
            Some(seconds) => format!("in {}", format::seconds(seconds)),
            None if model.pinned => "never: pinned".to_owned(),
            None if model.loaded < 1.0 => format!("loading {}", format::percent(model.loaded)),
            None if model.running > 0 => dash(),
            None => "never".to_owned(),
        };
        table.row([
            format::one_line(&match model.model.draft_name() {
                Some(draft) => format!("{} + {draft}", model.name),
                None => model.name.clone(),
            }),
            model.model.backend.to_string(),
            model.pid.to_string(),
            format::bytes(model.size_bytes.max(model.memory_bytes)),
            model.info.as_ref().map_or_else(dash, |info| info.n_ctx.to_string()),
            // The share of prompt tokens that were in the cache.
            match model.prompt_tokens {
                0 => dash(),
                all => format::percent((model.cached_tokens as f64 / all as f64) as f32),
            },
            model.running.to_string(),
            unloads,
        ]);
    }
    table
}

fn running(running: &[RunningJob]) -> Table<5> {
    let mut table = Table::new(["JOB", "MODEL", "FOR", "ANSWER", "CLIENT"]);
    for job in running {
        table.row([
            job.job.to_string(),
            format::one_line(&job.model),
            format::seconds(job.running_s),
            format::bytes(job.text_bytes),
            if job.attached { "attached" } else { "detached" }.to_owned(),
        ]);
    }
    table
}
