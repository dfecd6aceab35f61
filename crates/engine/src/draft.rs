//! Rules for draft models that hold for every backend.

use threadrunner_core::engine_protocol::Load;
use threadrunner_core::{ErrorCode, Failure};

/// Refuses a draft model if the options rule out its use.
///
/// # Errors
/// [`ErrorCode::Config`], naming the option.
pub(crate) fn check(load: &Load) -> Result<(), Failure> {
    let Some(draft) = load.model.draft_name() else { return Ok(()) };
    let option = match (load.options.deterministic, load.options.speculation) {
        (Some(true), _) => "deterministic = true",
        (_, Some(false)) => "speculation = false",
        _ => return Ok(()),
    };
    let message = format!("the draft model {draft} cannot be used with {option}");
    Err(Failure::new(ErrorCode::Config, message).hint(format!(
        "remove {option} from [engine] in config.toml, or drop the draft model with `--draft none`"
    )))
}

/// Whether greedy requests without a seed use drafts. They do if a draft model is named, unless the
/// options say no.
pub(crate) fn greedy(load: &Load) -> bool {
    load.model.draft.is_some() && load.options.speculation_greedy != Some(false)
}
