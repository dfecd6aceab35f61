//! Chat templates: renders the Jinja template in the model file like Hugging Face's
//! `apply_chat_template`.
//!
//! llama.cpp recognizes common templates and renders no others, and some of them slightly wrong (it
//! omits SmolLM2's default system prompt, for one). A model answers best to exactly the text that
//! it was trained on, so [`ChatTemplate`] runs the template itself. `source`, `python`, `filters`
//! and `strings` even out the differences between minijinja and Python's Jinja2. The golden files
//! in `tests/golden` hold Python's output for each template, and for expressions that no known
//! template uses; `differences.json` there lists what still differs. `limits` refuses templates
//! that ask for too much.
//!
//! In one respect this goes beyond Hugging Face: if a template has no place for instructions, they
//! are put before the user's next message, as llama.cpp does (`system`).

mod filters;
mod json;
mod limits;
mod messages;
mod python;
mod repr;
mod source;
mod strings;
mod system;
mod time;

#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use threadrunner_core::{Message, Tool};

pub(super) use time::local_time;
pub(crate) use time::local_zone;

/// How many minijinja instructions a template may execute per message. Far more than any template
/// needs (a long conversation takes some ten thousand), and used up within a second: templates come
/// from untrusted files. An instruction's worth also pays for 64 bytes of values.
const FUEL_PER_MESSAGE: u64 = 1_000_000;
/// The most that a conversation gives for its number of messages: values of 1 GB.
const MOST_FUEL: u64 = 16_000_000;
/// What a conversation's text gives: enough to copy it eight times.
const BYTES_PER_FUEL: u64 = 8;
const NAME: &str = "chat_template";

/// The special tokens that templates write out.
#[derive(Debug, Clone, Default)]
pub(super) struct SpecialTokens {
    /// The begin-of-sequence token; empty if there is none.
    pub bos: String,
    /// The end-of-sequence token; empty if there is none.
    pub eos: String,
}

/// A compiled chat template.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    tokens: SpecialTokens,
    /// Whether it has a place for instructions, found out when first needed.
    has_place_for_system: OnceLock<bool>,
}

/// Why a template cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub(super) enum TemplateError {
    /// The template called `raise_exception`.
    #[error("the model's chat template refuses the conversation: {0}")]
    Refused(String),
    /// The template does not compile or fails to render.
    #[error("the model's chat template cannot be rendered: {}", describe(.0))]
    Broken(#[source] Error),
    /// Compiling the template panicked.
    #[error("the model's chat template cannot be rendered: its parser crashed")]
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

/// The kind of error and its line, but no values: they may contain a user's prompt.
fn describe(error: &Error) -> String {
    let mut text = error.kind().to_string();
    if let Some(line) = error.line() {
        text.push_str(&format!(" on line {line}"));
    }
    text
}

/// What rendering a conversation may cost.
fn fuel(messages: &[Message], tools: &[Tool]) -> u64 {
    let bytes: usize =
        messages.iter().map(Message::bytes).chain(tools.iter().map(Tool::bytes)).sum();
    let messages = 1 + messages.len() as u64;
    FUEL_PER_MESSAGE.saturating_mul(messages).min(MOST_FUEL) + bytes as u64 / BYTES_PER_FUEL
}

/// The message of `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Compiles a template. `now` formats the local time like `strftime`.
    pub(super) fn compile(
        source: &str,
        tokens: SpecialTokens,
        now: fn(&str) -> String,
    ) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        let syntax = syntax.trim_blocks(true).lstrip_blocks(true).build()?;
        environment.set_syntax(syntax.clone());
        python::adapt(&mut environment);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
        });
        environment.add_function("strftime_now", move |format: &str| now(format));
        environment.add_template_owned(NAME, source::adapted(source, &syntax))?;
        Ok(Self { environment, tokens, has_place_for_system: OnceLock::new() })
    }

    /// Renders the conversation exactly as Hugging Face would, ending where the assistant's turn
    /// begins.
    fn render_as_is(&self, messages: &[Message], tools: &[Tool]) -> Result<String, TemplateError> {
        let list: Vec<Value> = messages.iter().map(messages::value).collect();
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel(messages, tools)));
        // `documents` stays undefined.
        let text = environment.get_template(NAME)?.render(context! {
            messages => list,
            tools => messages::tools(tools),
            add_generation_prompt => true,
            bos_token => self.tokens.bos.as_str(),
            eos_token => self.tokens.eos.as_str(),
        })?;
        Ok(text)
    }
}
