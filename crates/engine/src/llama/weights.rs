//! Loads weights, and reports what a model and this build of llama.cpp support.

use std::path::Path;
use std::sync::mpsc;
use std::thread;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_sys_2 as sys;
use threadrunner_core::engine_protocol::EngineOptions;
use threadrunner_core::{ErrorCode, Failure, PrefixCache};

use super::{log, metadata};

/// Reads the weights, on a thread of its own: llama.cpp's callback must own what it uses, and
/// `progress` is only lent.
pub(super) fn load_weights(
    backend: &LlamaBackend,
    path: &Path,
    options: &EngineOptions,
    progress: &mut dyn FnMut(f32),
) -> Result<LlamaModel, Failure> {
    log::forget_errors();
    let (sender, fractions) = mpsc::channel();
    let loaded = thread::scope(|scope| {
        let loader = scope.spawn(move || {
            let mut params = LlamaModelParams::default()
                .with_progress_callback(move |fraction| sender.send(fraction).is_ok());
            if let Some(layers) = options.gpu_layers {
                params = params.with_n_gpu_layers(layers);
            }
            LlamaModel::load_from_file(backend, path, &params)
        });
        fractions.iter().for_each(progress);
        loader.join()
    });
    match loaded {
        Ok(Ok(model)) => Ok(model),
        Ok(Err(error)) => {
            let reason = log::first_error().unwrap_or_else(|| error.to_string());
            Err(cannot_load(path, &reason).hint(
                "if the file is complete, this llama.cpp may not support it; try another model",
            ))
        }
        Err(_) => Err(cannot_load(path, "the loader crashed")),
    }
}

pub(super) fn cannot_load(path: &Path, reason: &str) -> Failure {
    Failure::new(
        ErrorCode::ModelLoad,
        format!("cannot load the model file {}: {reason}", path.display()),
    )
}

/// Whether this is a DFlash draft model. Those for DeepSeek 4 have its kind of cache, which aborts
/// on operations that it does not support.
pub(super) fn is_draft(model: &LlamaModel) -> bool {
    metadata::text(model, "general.architecture").is_some_and(|it| it == "dflash")
}

/// What the sequences of this model can share.
pub(super) fn prefix_cache(model: &LlamaModel) -> PrefixCache {
    match window(model) {
        _ if model.is_recurrent() || model.is_hybrid() || is_draft(model) => PrefixCache::None,
        0 => PrefixCache::Any,
        window => PrefixCache::Window(window),
    }
}

/// The width of this model's sliding attention window, in tokens; 0 without one.
fn window(model: &LlamaModel) -> u32 {
    // SAFETY: the model is alive; the call only reads it.
    u32::try_from(unsafe { sys::llama_model_n_swa(raw(model)) }).unwrap_or(0)
}

/// The C model.
pub(super) fn raw(model: &LlamaModel) -> *mut sys::llama_model {
    const {
        assert!(size_of::<LlamaModel>() == size_of::<*mut sys::llama_model>());
    }
    // SAFETY: `LlamaModel` is `repr(transparent)` over a non-null pointer to the C model; the
    // crate's version is pinned exactly, and the assertion above notices a change of size.
    unsafe { *std::ptr::from_ref(model).cast::<*mut sys::llama_model>() }
}

/// Whether llama.cpp was built for a GPU.
pub(crate) fn drives_a_gpu() -> bool {
    // SAFETY: takes nothing and returns how llama.cpp was built.
    unsafe { sys::llama_supports_gpu_offload() }
}

/// The processor features that llama.cpp says it uses.
pub(super) fn system_info() -> String {
    // SAFETY: returns a string that llama.cpp keeps; it is copied before the next call.
    let text = unsafe { std::ffi::CStr::from_ptr(sys::llama_print_system_info()) };
    text.to_string_lossy().trim().to_owned()
}
