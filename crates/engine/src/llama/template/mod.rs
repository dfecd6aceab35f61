//! Chat templates: the Jinja template in the model file, rendered as Hugging Face's
//! `apply_chat_template` renders it.
//!
//! llama.cpp knows the common templates by heart and renders no other; those it gets slightly
//! wrong (it leaves out SmolLM2's default system prompt, for one). A model answers best to exactly
//! the text it was trained on, so the template itself is run here. What differs between minijinja
//! and Python's Jinja2 is evened out in `python`, `filters` and `strings`; the golden files in
//! `tests/golden` hold what Python makes of each template, and of expressions that no known template
//! has. `tests` lists what still differs.
//!
//! In one thing this does more than Hugging Face: where a template has no place for instructions,
//! they go before what the user says next, as with llama.cpp.

mod filters;
mod json;
mod python;
mod strings;
mod system;
mod time;

#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use minijinja::{Environment, Error, ErrorKind, Value, context};
use threadrunner_core::{Message, Role};

pub(super) use time::local_time;
pub(crate) use time::local_zone;

/// More than any template needs by far (a long conversation takes some ten thousand), and used
/// up within a second: a template is part of a file somebody made.
const FUEL_PER_MESSAGE: u64 = 1_000_000;
const NAME: &str = "chat_template";

/// The special tokens that templates write out.
#[derive(Debug, Clone, Default)]
pub(super) struct SpecialTokens {
    /// The begin-of-sequence token; empty when there is none.
    pub bos: String,
    /// The end-of-sequence token; empty when there is none.
    pub eos: String,
}

/// A compiled chat template.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    tokens: SpecialTokens,
    /// Whether instructions have a place in it, once that was tried.
    has_place_for_system: OnceLock<bool>,
}

/// Why a template does not render.
#[derive(Debug, thiserror::Error)]
pub(super) enum TemplateError {
    /// The template itself said no, by `raise_exception`.
    #[error("the model's chat template refuses the conversation: {0}")]
    Refused(String),
    /// It is no template that can be rendered.
    #[error("the model's chat template cannot be rendered: {}", describe(.0))]
    Broken(#[source] Error),
    /// Reading it panics.
    #[error("the model's chat template cannot be rendered: reading it panics")]
    Panics,
}

impl From<Error> for TemplateError {
    fn from(error: Error) -> Self {
        let mut source: Option<&dyn std::error::Error> = Some(&error);
        while let Some(cause) = source {
            if let Some(Raised(message)) = cause.downcast_ref() {
                return Self::Refused(message.clone());
            }
            source = cause.source();
        }
        Self::Broken(error)
    }
}

/// The error with its line; nothing of the values it was about, which are somebody's prompt.
fn describe(error: &Error) -> String {
    let mut text = error.kind().to_string();
    if let Some(line) = error.line() {
        text.push_str(&format!(" in line {line}"));
    }
    text
}

/// What `raise_exception` was called with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Compiles a template. `now` tells the local time as `strftime` formats it.
    pub(super) fn compile(
        source: &str,
        tokens: SpecialTokens,
        now: fn(&str) -> String,
    ) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        python::adapt(&mut environment);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
        });
        environment.add_function("strftime_now", move |format: &str| now(format));
        environment
            .add_template_owned(NAME, python::without_generation_tags(source).into_owned())?;
        Ok(Self { environment, tokens, has_place_for_system: OnceLock::new() })
    }

    /// The conversation as text, ending where the assistant is to speak: what Hugging Face would make
    /// of these messages.
    fn render_as_is(&self, messages: &[Message]) -> Result<String, TemplateError> {
        let list: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => role(message.role), content => message.content })
            .collect();
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL_PER_MESSAGE.saturating_mul(1 + messages.len() as u64)));
        // `tools` and `documents` are left undefined: templates ask `if tools is defined`.
        let text = environment.get_template(NAME)?.render(context! {
            messages => list,
            add_generation_prompt => true,
            bos_token => self.tokens.bos,
            eos_token => self.tokens.eos,
        })?;
        Ok(text)
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    }
}
