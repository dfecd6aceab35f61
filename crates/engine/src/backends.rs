//! Choosing the backend that a model asks for.

use threadrunner_core::engine_protocol::{EngineInfo, Load};
use threadrunner_core::{BackendKind, Failure, ModelBackend};

use crate::dummy;

/// Loads the model, tells `progress` how far it is (from 0 to 1), and lends it to `serve`, once.
///
/// Lending it keeps a context and the model that it borrows on one stack.
///
/// # Errors
/// The model cannot be loaded; `serve` was not called.
pub fn with_model(
    load: &Load,
    progress: &mut dyn FnMut(f32),
    serve: &mut dyn FnMut(&mut dyn ModelBackend, EngineInfo),
) -> Result<(), Failure> {
    match load.model.backend {
        BackendKind::Dummy => dummy::with_model(load, progress, serve),
        BackendKind::Llama => llama(load, progress, serve),
    }
}

#[cfg(feature = "llama")]
use crate::llama::with_model as llama;

#[cfg(not(feature = "llama"))]
fn llama(
    _: &Load,
    _: &mut dyn FnMut(f32),
    _: &mut dyn FnMut(&mut dyn ModelBackend, EngineInfo),
) -> Result<(), Failure> {
    let message = "this engine was built without the llama backend";
    Err(Failure::new(threadrunner_core::ErrorCode::BackendUnavailable, message)
        .hint("Build it with `--features llama`, or set THREADRUNNER_BACKEND=dummy."))
}
