//! Loads a draft model and checks that it can guess for the model.

use std::path::Path;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::vocab::LlamaVocab;
use threadrunner_core::engine_protocol::Load;
use threadrunner_core::{ErrorCode, Failure, PrefixCache};

use super::context::{Context, ContextSettings};
use super::draft::Drafter;
use super::log;
use super::weights::{load_weights, prefix_cache};
use crate::estimate::Estimate;

/// How much the sizes of the vocabularies may differ: models of one family are padded differently.
/// llama.cpp's own tools allow as much.
const MOST_PADDING: i32 = 128;

/// Estimates from the headers of the model and of its draft model.
pub(super) fn estimate_of(path: &Path, load: &Load) -> Result<Estimate, Failure> {
    let estimate = Estimate::of_file(path, &load.options)?;
    match load.model.draft.as_deref() {
        Some(draft) => estimate
            .with_draft(draft, &load.options)
            .map_err(|failure| of_draft(draft, path, failure)),
        None => Ok(estimate),
    }
}

/// Adds both models' names to a failure of the draft model.
fn of_draft(draft: &Path, path: &Path, failure: Failure) -> Failure {
    Failure { hint: failure.hint, ..cannot_draft(draft, path, &failure.message) }
}

/// The fraction of the loading progress that belongs to the model; the rest is its draft model's.
pub(super) fn parts_of_loading(path: &Path, load: &Load) -> f32 {
    let length = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len()) as f32;
    let Some(draft) = load.model.draft.as_deref() else { return 1.0 };
    let (own, draft) = (length(path), length(draft));
    if own + draft > 0.0 { own / (own + draft) } else { 1.0 }
}

/// Loads a draft model, if it can guess for the model.
pub(super) fn load_draft(
    backend: &LlamaBackend,
    (model, path): (&LlamaModel, &Path),
    draft_path: &Path,
    load: &Load,
    progress: &mut dyn FnMut(f32),
) -> Result<LlamaModel, Failure> {
    if prefix_cache(model) == PrefixCache::None {
        let reason = "the model's cache cannot be cut, so a wrong guess could not be undone";
        return Err(cannot_draft(draft_path, path, reason));
    }
    let draft = load_weights(backend, draft_path, &load.options, progress)
        .map_err(|failure| of_draft(draft_path, path, failure))?;
    if prefix_cache(&draft) == PrefixCache::None {
        let reason = "its cache cannot be cut, so a wrong guess could not be undone";
        return Err(cannot_draft(draft_path, path, reason));
    }
    check_vocabularies((model, path), (&draft, draft_path))?;
    Ok(draft)
}

/// Creates the draft model's context: as many cells as the model's context has, up to what the
/// draft model was trained for, and a sequence for each that can be in a forward pass.
pub(super) fn make_drafter<'model>(
    (model, path): (&LlamaModel, &Path),
    (draft, draft_path): (&'model LlamaModel, &Path),
    settings: &ContextSettings,
    n_ctx: u32,
) -> Result<Drafter<'model>, Failure> {
    log::forget_errors();
    let settings = ContextSettings {
        n_ctx: n_ctx.min(draft.n_ctx_train().max(1)),
        sequences: settings.n_seq_max,
        states: settings.n_seq_max,
        drafts: 0,
        ..*settings
    };
    let context = Context::new(draft, settings).ok_or_else(|| {
        let reason = log::first_error().unwrap_or_else(|| "llama.cpp gave no reason".to_owned());
        let reason = format!("cannot make a context of {} tokens: {reason}", settings.n_ctx);
        cannot_draft(draft_path, path, &reason)
    })?;
    if !context.has_memory() {
        return Err(cannot_draft(draft_path, path, "an embedding model cannot generate text"));
    }
    Ok(Drafter::new(draft, context, prefix_cache(draft), model.n_vocab()))
}

/// Refuses a draft model whose tokens are not the model's.
///
/// # Errors
/// [`ErrorCode::ModelLoad`] names both files and how they differ.
fn check_vocabularies(
    (model, path): (&LlamaModel, &Path),
    (draft, draft_path): (&LlamaModel, &Path),
) -> Result<(), Failure> {
    match difference(&model.vocab(), &draft.vocab()) {
        None => Ok(()),
        Some(difference) => Err(cannot_draft(draft_path, path, &difference)
            .hint("use a smaller model of the same family")),
    }
}

/// The failure that says why one model cannot guess for another.
fn cannot_draft(draft: &Path, path: &Path, reason: &str) -> Failure {
    let message =
        format!("{} cannot be the draft model of {}: {reason}", draft.display(), path.display());
    Failure::new(ErrorCode::ModelLoad, message)
}

fn difference(model: &LlamaVocab<'_>, draft: &LlamaVocab<'_>) -> Option<String> {
    let (many, drafts) = (model.n_tokens(), draft.n_tokens());
    if model.vocab_type() != draft.vocab_type() {
        return Some("their vocabularies differ: they are of different kinds".to_owned());
    }
    if many.abs_diff(drafts) > MOST_PADDING as u32 {
        return Some(format!("their vocabularies differ: {drafts} and {many} tokens"));
    }
    for (what, one, other) in
        [("begins", draft.bos(), model.bos()), ("ends", draft.eos(), model.eos())]
    {
        if one != other {
            return Some(format!("a text {what} with token {}, not {}", one.0, other.0));
        }
    }
    let token = (0..many.min(drafts))
        .map(LlamaToken)
        .find(|token| draft.text(*token) != model.text(*token))?;
    let text = |vocab: &LlamaVocab<'_>| {
        vocab.text(token).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    };
    Some(format!("token {} is {:?}, not {:?}", token.0, text(draft), text(model)))
}
