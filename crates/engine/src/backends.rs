//! Selects the backend that a model asks for.

use threadrunner_core::engine_protocol::{EngineInfo, Event, Load};
use threadrunner_core::{BackendKind, ErrorCode, Failure, ModelBackend};

use crate::dummy;

/// Loads the model, reports its progress (from 0 to 1) to `progress`, and lends it to `serve`,
/// once.
///
/// Lending it keeps a context and the model that it borrows on one stack.
///
/// # Errors
/// When the model cannot be loaded. `serve` is not called in that case.
pub fn with_model(
    load: &Load,
    progress: &mut dyn FnMut(f32),
    serve: &mut dyn FnMut(&mut dyn ModelBackend, EngineInfo),
) -> Result<(), Failure> {
    match load.model.backend {
        BackendKind::Dummy => dummy::with_model(load, progress, serve),
        #[cfg(feature = "llama")]
        BackendKind::Llama => crate::llama::with_model(load, progress, serve),
        #[cfg(not(feature = "llama"))]
        BackendKind::Llama => Err(without_llama()),
        BackendKind::Unknown => Err(unknown()),
    }
}

/// Returns the memory that loading it would take, as [`Event::Sized`].
///
/// # Errors
/// When it is not a model that could be loaded.
pub fn size(load: &Load) -> Result<Event, Failure> {
    match load.model.backend {
        BackendKind::Dummy => dummy::size(load),
        #[cfg(feature = "llama")]
        BackendKind::Llama => crate::llama::size(load),
        #[cfg(not(feature = "llama"))]
        BackendKind::Llama => Err(without_llama()),
        BackendKind::Unknown => Err(unknown()),
    }
}

fn unknown() -> Failure {
    Failure::new(ErrorCode::BackendUnavailable, "this engine does not know the model's backend")
        .hint("update the engine; `threadrunner doctor` shows which one is used")
}

#[cfg(not(feature = "llama"))]
fn without_llama() -> Failure {
    Failure::new(ErrorCode::BackendUnavailable, "this engine was built without the llama backend")
        .hint("build it with `--features llama`, or set THREADRUNNER_BACKEND=dummy")
}
