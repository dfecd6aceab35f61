//! Requests: what a line of a batch file and its body may hold.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// A value that should be a `T`. Any other is kept, so that what is wrong with a request can be
/// said under its name and in an order of our choice.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Loose<T> {
    /// What it should be.
    Fit(T),
    /// Anything else; null if the key is missing.
    Unfit(Value),
}

impl<T> Default for Loose<T> {
    fn default() -> Self {
        Self::Unfit(Value::Null)
    }
}

/// A line of a batch file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RequestLine {
    /// The name under which the line is answered.
    pub custom_id: Option<Loose<String>>,
    /// The HTTP method; `None` only if the key is missing.
    #[serde(deserialize_with = "present")]
    pub method: Option<Loose<Method>>,
    /// Which kind of request the body is.
    pub url: Loose<Endpoint>,
    /// A [`ChatRequest`] or a [`CompletionRequest`].
    pub body: Loose<Map<String, Value>>,
}

/// The HTTP method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Method {
    /// The only one.
    #[serde(rename = "POST")]
    Post,
}

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Endpoint {
    /// A [`ChatRequest`].
    #[serde(rename = "/v1/chat/completions")]
    Chat,
    /// A [`CompletionRequest`].
    #[serde(rename = "/v1/completions")]
    Completions,
}

/// Asks for the next message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ChatRequest {
    /// The conversation.
    pub messages: Option<Loose<Vec<Loose<ChatMessage>>>>,
    /// The other keys.
    #[serde(flatten)]
    pub options: Options,
}

/// Asks for a text that continues another.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct CompletionRequest {
    /// The text.
    pub prompt: Option<Prompt>,
    /// The other keys.
    #[serde(flatten)]
    pub options: Options,
}

/// What both kinds of request may have.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Options {
    /// The newer name of `max_tokens`, which wins.
    pub max_completion_tokens: Option<Value>,
    /// How many answers to give.
    pub n: Option<Loose<f64>>,
    /// How many answers to choose the best from.
    pub best_of: Option<Loose<f64>>,
    /// Whether the answer repeats the prompt.
    pub echo: Option<Loose<bool>>,
    /// Makes tokens less likely the more often they were used.
    pub frequency_penalty: Option<Loose<f64>>,
    /// Makes tokens that were used less likely.
    pub presence_penalty: Option<Loose<f64>>,
    /// Whether, or for how many tokens, to report probabilities.
    pub logprobs: Option<Loose<f64>>,
    /// For how many tokens to report probabilities.
    pub top_logprobs: Option<Loose<f64>>,
    /// The model, sampling options that have the same name here, and keys without effect.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// The text to continue.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// The text.
    Text(String),
    /// A list of one text.
    One([String; 1]),
    /// Anything else: several texts, or tokens.
    Other(Value),
}

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ChatMessage {
    /// The author.
    pub role: Loose<Role>,
    /// What is said.
    pub content: Content,
    /// Other keys, such as `name`. Because of them, serde reads no list as a message.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The newer name of `system`.
    Developer,
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// A text.
    Text(String),
    /// A text in parts, as newer clients send it.
    Parts(Vec<TextPart>),
    /// Anything else; null if the key is missing. A list has parts that are not text.
    Other(Value),
}

impl Default for Content {
    fn default() -> Self {
        Self::Other(Value::Null)
    }
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TextPart {
    /// Its text.
    pub text: String,
    /// Other keys, such as `type`. Because of them, serde reads no list as a part.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// Reads a key that is there, even if it is null.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}
