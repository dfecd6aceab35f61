//! What holds for draft models whatever the backend.

use threadrunner_core::engine_protocol::Load;
use threadrunner_core::{ErrorCode, Failure};

/// Refuses a draft model where the options leave it nothing to do.
///
/// # Errors
/// [`ErrorCode::Config`] names the option.
pub(crate) fn check(load: &Load) -> Result<(), Failure> {
    let Some(draft) = load.model.draft_name() else { return Ok(()) };
    let option = match (load.options.deterministic, load.options.speculation) {
        (Some(true), _) => "deterministic = true",
        (_, Some(false)) => "speculation = false",
        _ => return Ok(()),
    };
    let message = format!("with {option} the draft model {draft} has nothing to do");
    Err(Failure::new(ErrorCode::Config, message).hint(format!(
        "Leave out {option} in [engine] of config.toml, or the draft model: --draft none."
    )))
}

/// Whether greedy requests without a seed have drafts: who names a draft model wants it to be used,
/// unless the options say no.
pub(crate) fn greedy(load: &Load) -> bool {
    load.model.draft.is_some() && load.options.speculation_greedy != Some(false)
}
