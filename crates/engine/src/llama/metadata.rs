//! What the model file says about the model, besides the weights.

use std::str::FromStr;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::vocab::LlamaVocab;
use threadrunner_core::Parameters;

use super::template::SpecialTokens;

/// The value of `key`, if the file has it.
pub(super) fn text(model: &LlamaModel, key: &str) -> Option<String> {
    model.meta_val_str(key).ok().filter(|text| !text.is_empty())
}

/// The value of `key` as a number.
pub(super) fn number<T: FromStr>(model: &LlamaModel, key: &str) -> Option<T> {
    text(model, key)?.trim().parse().ok()
}

/// A value under the architecture's prefix, such as `llama.attention.key_length`.
pub(super) fn of_architecture<T: FromStr>(model: &LlamaModel, key: &str) -> Option<T> {
    number(model, &format!("{}.{key}", text(model, "general.architecture")?))
}

/// The sampling parameters that the file recommends. Values out of range are ignored with a
/// warning, because the user can do nothing about them.
pub(super) fn recommended(model: &LlamaModel) -> Parameters {
    let keep = |params: Parameters| match params.validate() {
        Ok(()) => params,
        Err(error) => {
            tracing::warn!("ignoring what the model file recommends: {error}");
            Parameters::default()
        }
    };
    let none = Parameters::default;
    let float = |key: &str| number::<f32>(model, &format!("general.sampling.{key}"));
    keep(Parameters { temperature: float("temp"), ..none() })
        .or(&keep(Parameters { top_k: number(model, "general.sampling.top_k"), ..none() }))
        .or(&keep(Parameters { top_p: float("top_p"), ..none() }))
        .or(&keep(Parameters { min_p: float("min_p"), ..none() }))
        .or(&keep(Parameters { repeat_penalty: float("penalty_repeat"), ..none() }))
}

/// The text of the tokens that templates write out.
pub(super) fn special_tokens(vocab: &LlamaVocab<'_>) -> SpecialTokens {
    let text = |token: LlamaToken| match token.0 {
        id if id < 0 || id >= vocab.n_tokens() => String::new(),
        _ => vocab.text(token).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default(),
    };
    SpecialTokens { bos: text(vocab.bos()), eos: text(vocab.eos()) }
}
