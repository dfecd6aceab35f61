//! What OpenAI's API says on the wire, for as much of it as is answered here.
//!
//! [`RequestLine`] is a line of its [batch files][batch], with a [`ChatRequest`] or a
//! [`CompletionRequest`] as its body; [`ResultLine`] answers it, with a [`Completion`] or an
//! [`ErrorBody`]. The bodies are those of the API's own endpoints too.
//!
//! Requests are read leniently ([`Loose`]) and refused with words of our own, in a fixed order.
//! Results have their keys in alphabetical order.
//!
//! [batch]: https://platform.openai.com/docs/guides/batch

pub(crate) mod read;
pub(crate) mod request;
pub(crate) mod result;

pub use request::{
    ChatMessage, ChatRequest, CompletionRequest, Content, Endpoint, Loose, Method, Options, Prompt,
    RequestLine, Role, TextPart,
};
pub use result::{
    ApiError, AssistantMessage, Body, Choice, Completion, ErrorBody, Finish, LineError, ObjectType,
    PromptTokensDetails, Response, ResultLine, Said, TokenUsage, status,
};

#[cfg(test)]
mod tests;
