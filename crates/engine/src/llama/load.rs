//! Loads a model from its file and sets up everything that it needs to answer.

use std::path::Path;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;
use threadrunner_core::engine_protocol::{EngineInfo, Event, Load};
use threadrunner_core::{ErrorCode, Failure, Memory, ModelBackend, ModelInfo, PrefixCache};

use super::backend::Llama;
use super::context::{Context, ContextSettings};
use super::draft_load::{estimate_of, load_draft, make_drafter, parts_of_loading};
use super::template::{self, ChatTemplate, TemplateError};
use super::weights::{
    cannot_load, drives_a_gpu, is_draft, load_weights, prefix_cache, system_info,
};
use super::{log, metadata};
use crate::caught::unless_it_panics;
use crate::estimate::{
    DEFAULT_BATCH, DEFAULT_CONTEXT, Estimate, MOST_DRAFTS, PARKED_PART, SPARE_STATES,
};
use crate::machine::{self, BUILD};
use crate::{draft as draft_options, estimate};

/// The smallest context chosen when memory is short and the daemon gave no budget.
const LEAST_CONTEXT: u32 = 512;
/// llama.cpp's `LLAMA_MAX_SEQ`.
const MOST_SEQUENCES: u32 = 256;
const MOST_BATCH: u32 = 8192;

/// Loads the model that `load` names and lends it to `serve`, which is called once.
///
/// `progress` is told the fraction loaded so far. When `serve` returns, everything is freed.
///
/// # Errors
/// [`ErrorCode::NoModel`] if `load` names no file, [`ErrorCode::ModelLoad`] or
/// [`ErrorCode::ModelNotFound`] if something is wrong with the file, and [`ErrorCode::Config`] if
/// something is wrong with the options.
pub fn with_model(
    load: &Load,
    progress: &mut dyn FnMut(f32),
    serve: &mut dyn FnMut(&mut dyn ModelBackend, EngineInfo),
) -> Result<(), Failure> {
    let path = path_of(load)?;
    log::install();
    draft_options::check(load)?;
    let estimate = estimate_of(path, load)?;
    log::forget_sizes();
    let backend = LlamaBackend::init()
        .map_err(|error| Failure::new(ErrorCode::Internal, format!("llama.cpp: {error}")))?;
    let parts = parts_of_loading(path, load);
    let model = load_weights(&backend, path, &load.options, &mut |part| progress(part * parts))?;
    if model.n_vocab() <= 0 {
        return Err(cannot_load(path, "it has no vocabulary, so it cannot generate text"));
    }
    let settings = settings(&model, load, &estimate)?;
    log::forget_errors();
    let context = Context::new(&model, settings).ok_or_else(|| {
        let reason = log::first_error().unwrap_or_else(|| "llama.cpp gave no reason".to_owned());
        Failure::new(
            ErrorCode::ModelLoad,
            format!(
                "cannot make a context of {} tokens for {}: {reason}",
                settings.n_ctx,
                path.display()
            ),
        )
        .hint("set a smaller context in [engine] of config.toml")
    })?;
    if !context.has_memory() {
        return Err(cannot_load(path, "an embedding model cannot generate text"));
    }

    let template = metadata::text(&model, "tokenizer.chat_template").map(|source| {
        let tokens = metadata::special_tokens(&model.vocab());
        unless_it_panics(|| ChatTemplate::compile(&source, tokens, template::local_time))
            .unwrap_or(Err(TemplateError::Panics))
    });
    if let Some(Err(error)) = &template {
        tracing::warn!("{error}; only raw prompts will work");
    }
    let shared = prefix_cache(&model);
    match shared {
        PrefixCache::None => tracing::info!("this model's cache cannot be shared: no prefix cache"),
        PrefixCache::Window(window) => tracing::info!(
            window,
            "this model uses sliding-window attention: only whole sequences are shared"
        ),
        PrefixCache::Any => {}
    }
    let deterministic = load.options.deterministic == Some(true);
    let prefix_cache = if load.options.share_prefixes() { shared } else { PrefixCache::None };
    let n_ctx = context.settings().n_ctx;
    let state_format = state_format(&model, n_ctx);
    let parks = prefix_cache != PrefixCache::None && state_format.is_some();
    let own = log::sizes();
    let draft = match load.model.draft.as_deref() {
        Some(draft) => {
            let mut rest = |part| progress(parts + part * (1.0 - parts));
            Some((draft, load_draft(&backend, (&model, path), draft, load, &mut rest)?))
        }
        None => None,
    };
    let drafter = draft.as_ref().map(|(draft_path, draft)| {
        make_drafter((&model, path), (draft, draft_path), &settings, n_ctx)
    });
    let drafter = drafter.transpose()?;
    let allocated = log::sizes();
    let info = ModelInfo {
        name: metadata::text(&model, "general.name").unwrap_or_else(|| load.model.name()),
        n_ctx,
        n_batch: context.settings().n_batch,
        n_seq_max: settings.n_seq_max,
        // One place stays free, for swapping others.
        n_seq_spare: match shared {
            PrefixCache::None => settings.states,
            PrefixCache::Any | PrefixCache::Window(_) => settings.sequences.saturating_sub(1),
        }
        .saturating_sub(settings.n_seq_max),
        n_seq_cached: match shared {
            _ if deterministic => 1,
            PrefixCache::Any => 0,
            PrefixCache::Window(_) | PrefixCache::None => settings.states,
        },
        prefix_cache,
        own_cells_only: context.has_own_attention() && !deterministic,
        n_parked: if parks { n_ctx / PARKED_PART } else { 0 },
        n_draft_max: settings.drafts,
        draft_repeatable: load.options.speculation_greedy == Some(true),
        draft_greedy: draft_options::greedy(load),
        draft_model: load.model.draft_name(),
        deterministic,
        recommended: metadata::recommended(&model),
        chat_template: template.is_some(),
        digest: None,
        inputs: Vec::new(),
        outputs: Vec::new(),
        weight_bytes: model.size(),
        memory: Memory { parked: if parks { estimate::parked(own.cache) } else { 0 }, ..allocated },
    };
    let engine = EngineInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        build: BUILD.to_owned(),
        system_info: system_info(),
        threads: settings.threads,
    };
    let mut llama = Llama::new(&model, context, template, info, state_format).drafted_by(drafter);
    serve(&mut llama, engine);
    Ok(())
}

/// The memory that a model needs, from its header and without llama.cpp; see
/// [`crate::backends::size`].
///
/// # Errors
/// As for [`with_model`].
pub fn size(load: &Load) -> Result<Event, Failure> {
    let path = path_of(load)?;
    draft_options::check(load)?;
    let estimate = estimate_of(path, load)?;
    Ok(Event::Sized {
        wanted: estimate.memory(estimate.wanted()),
        least: estimate.memory(estimate.least()),
    })
}

fn path_of(load: &Load) -> Result<&Path, Failure> {
    load.model.path.as_deref().ok_or_else(|| {
        Failure::new(ErrorCode::NoModel, "the llama backend needs a model file")
            .hint("name one with `--model PATH`")
    })
}

/// Chooses the sizes of the context from the options, the model and the free memory.
fn settings(
    model: &LlamaModel,
    load: &Load,
    estimate: &Estimate,
) -> Result<ContextSettings, Failure> {
    let options = &load.options;
    // What fits the budget that the daemon set.
    let fitted = load.memory.map(|bytes| estimate.fit(bytes));
    let range = |name: &str, value: Option<u32>, most: u32| match value {
        Some(value) if value == 0 || value > most => Err(Failure::new(
            ErrorCode::Config,
            format!("`{name}` takes a number from 1 to {most}, not {value}"),
        )),
        _ => Ok(value),
    };
    let deterministic = options.deterministic == Some(true);
    let n_seq_max = range("sequences", options.sequences, MOST_SEQUENCES)?
        .unwrap_or_else(|| fitted.unwrap_or_else(|| estimate.wanted()).sequences);
    // One at a time: what others have in the cache, and the number of tokens in a forward pass,
    // show in the rounding.
    let n_seq_max = if deterministic { 1 } else { n_seq_max };
    let n_batch = range("batch", options.batch, MOST_BATCH)?.unwrap_or(DEFAULT_BATCH);
    let threads =
        range("threads", options.threads, 512)?.unwrap_or(machine::facts().processor.threads);
    let n_ctx = match range("context", options.context, i32::MAX as u32)? {
        Some(asked) => {
            fits(model, asked)?;
            asked
        }
        None if let Some(extent) = fitted => extent.context.min(model.n_ctx_train().max(1)),
        None => {
            let mut n_ctx = model.n_ctx_train().clamp(1, DEFAULT_CONTEXT);
            while n_ctx > LEAST_CONTEXT && fits(model, n_ctx.saturating_mul(2)).is_err() {
                n_ctx /= 2;
            }
            n_ctx
        }
    };
    let n_batch = n_batch.max(n_seq_max);
    // Sequences that need only cells can use all of llama.cpp's sequences, whatever `n_seq_max` is.
    let shared = prefix_cache(model);
    let spare = if shared == PrefixCache::Any { 0 } else { SPARE_STATES };
    let states = (n_seq_max + spare).min(MOST_SEQUENCES);
    let sequences = if shared == PrefixCache::None { states } else { MOST_SEQUENCES };
    let n_ubatch = n_batch;
    let drafts = match shared {
        _ if deterministic || options.speculation == Some(false) => 0,
        PrefixCache::None => 0,
        // What leaves a window is only overwritten by later forward passes, so the tokens of the
        // last one can be cut off.
        PrefixCache::Any | PrefixCache::Window(_) => MOST_DRAFTS.min(n_batch - 1),
    };
    Ok(ContextSettings { n_ctx, n_batch, n_ubatch, n_seq_max, sequences, states, drafts, threads })
}

/// What saved cells depend on besides the model file: the build of llama.cpp and, for models that
/// rotate positions differently in a long context, whether this is one. Types and layout of the
/// cells are part of what llama.cpp saves and checks.
fn state_format(model: &LlamaModel, n_ctx: u32) -> Option<String> {
    if is_draft(model) {
        return None;
    }
    let short = metadata::of_architecture::<u64>(model, "rope.scaling.original_context_length");
    let long = short.is_some_and(|short| u64::from(n_ctx) > short);
    // SAFETY: both take nothing and return strings that live as long as the program.
    let (version, commit) = unsafe {
        (
            std::ffi::CStr::from_ptr(sys::ggml_version()),
            std::ffi::CStr::from_ptr(sys::ggml_commit()),
        )
    };
    let (version, commit) = (version.to_string_lossy(), commit.to_string_lossy());
    Some(format!("ggml {version} {commit}, f16 cells in one stream, long context: {long}"))
}

/// Checks that the cache for `n_ctx` tokens fits into the free memory. Otherwise the system would
/// grant the memory, and kill the engine when llama.cpp writes to it.
fn fits(model: &LlamaModel, n_ctx: u32) -> Result<(), Failure> {
    let (Some(bytes), Some(free)) =
        (cache_bytes(model, n_ctx), machine::facts().available_memory())
    else {
        return Ok(());
    };
    if bytes <= free {
        return Ok(());
    }
    let mib = |bytes: u64| bytes >> 20;
    Err(Failure::new(
        ErrorCode::ModelLoad,
        format!(
            "a context of {n_ctx} tokens needs {} MiB for this model, but only {} MiB are free",
            mib(bytes),
            mib(free)
        ),
    )
    .hint("set a smaller context in [engine] of config.toml"))
}

/// The size in bytes of a cache of 16-bit numbers for `n_ctx` tokens; `None` for models with
/// another kind of cache, and if the cache may be in a GPU's memory.
fn cache_bytes(model: &LlamaModel, n_ctx: u32) -> Option<u64> {
    if model.is_recurrent() || model.is_hybrid() || drives_a_gpu() {
        return None;
    }
    let heads = u64::from(model.n_head_kv());
    let length = |key: &str| metadata::of_architecture::<u64>(model, key);
    let default = u64::try_from(model.n_embd()).ok()? / u64::from(model.n_head().max(1));
    let key = length("attention.key_length").unwrap_or(default);
    let value = length("attention.value_length").unwrap_or(default);
    let token = u64::from(model.n_layer()).checked_mul(heads)?.checked_mul((key + value) * 2)?;
    token.checked_mul(u64::from(n_ctx))
}
