//! Turns a request into a submission, or says what is wrong with it.

use serde_json::{Map, Value};
use threadrunner_core::protocol::Submission;
use threadrunner_core::{self as core, ErrorCode, Failure, Message, Parameters};

use super::request::{
    ChatMessage, ChatRequest, CompletionRequest, Content, Endpoint, Loose, Method, Options, Prompt,
    RequestLine, Role,
};
use crate::label::{Asked, Form, Label, invalid, submission};

/// Keys of a body that are ignored without a warning: none of them changes the answer.
const HARMLESS: [&str; 5] = ["stream", "stream_options", "user", "metadata", "store"];

/// Whether a line is in this format.
pub(crate) fn is_one(object: &Map<String, Value>) -> bool {
    object.contains_key("custom_id") || (object.contains_key("body") && object.contains_key("url"))
}

/// Reads a line in this format.
pub(crate) fn read(object: Map<String, Value>, number: u64) -> (Label, Result<Asked, Failure>) {
    let line: RequestLine = of(object);
    let unnamed = |id: Value| Label::unnamed(Form::OpenAi(Endpoint::Chat), id, number);
    let mut label = match line.custom_id {
        Some(Loose::Fit(id)) => unnamed(Value::Null).named(id.into()),
        None => unnamed(number.to_string().into()),
        Some(Loose::Unfit(_)) => {
            let label = unnamed(Value::Null);
            return (label, Err(invalid("\"custom_id\" is not a string".to_owned())));
        }
    };
    if line.method.is_some_and(|method| method != Loose::Fit(Method::Post)) {
        return (label, Err(invalid("\"method\" is not \"POST\"".to_owned())));
    }
    let Loose::Fit(endpoint) = line.url else {
        let said = "\"url\" is neither \"/v1/chat/completions\" nor \"/v1/completions\"";
        return (label, Err(invalid(said.to_owned())));
    };
    label.form = Form::OpenAi(endpoint);
    let Loose::Fit(body) = line.body else {
        return (label, Err(invalid("\"body\" is not an object".to_owned())));
    };
    let asked = match endpoint {
        Endpoint::Chat => of::<ChatRequest>(body).into_asked(),
        Endpoint::Completions => of::<CompletionRequest>(body).into_asked(),
    };
    (label, asked)
}

/// Reads an object as a type of which each field takes any value, so that it cannot fail.
fn of<T: serde::de::DeserializeOwned + Default>(object: Map<String, Value>) -> T {
    serde_json::from_value(Value::Object(object)).unwrap_or_default()
}

impl ChatRequest {
    /// What the request asks for.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`] or [`ErrorCode::EmptyPrompt`], with the key at fault.
    pub fn into_asked(self) -> Result<Asked, Failure> {
        let Some(Loose::Fit(messages)) = self.messages else {
            return Err(invalid("\"messages\" is not a list".to_owned()));
        };
        if messages.is_empty() {
            return Err(Failure::new(ErrorCode::EmptyPrompt, "\"messages\" is empty"));
        }
        let messages = messages.into_iter().map(message).collect::<Result<_, _>>()?;
        let Asked { submission, unknown } = self.options.into_asked()?;
        Ok(Asked { submission: Submission { messages, ..submission }, unknown })
    }
}

impl CompletionRequest {
    /// What the request asks for.
    ///
    /// # Errors
    /// As [`ChatRequest::into_asked`].
    pub fn into_asked(self) -> Result<Asked, Failure> {
        let (Some(Prompt::Text(prompt)) | Some(Prompt::One([prompt]))) = self.prompt else {
            return Err(invalid("\"prompt\" is not a single string".to_owned()));
        };
        if prompt.is_empty() {
            return Err(Failure::new(ErrorCode::EmptyPrompt, "\"prompt\" is empty"));
        }
        let Asked { submission, unknown } = self.options.into_asked()?;
        Ok(Asked { submission: Submission { prompt, raw: true, ..submission }, unknown })
    }
}

impl Options {
    fn into_asked(self) -> Result<Asked, Failure> {
        let mut read = Map::new();
        let mut unknown = Vec::new();
        for (key, value) in self.others.into_iter().filter(|(_, value)| !value.is_null()) {
            if key == "model" || Parameters::OPTIONS.iter().any(|option| option.key == key) {
                read.insert(key, value);
            } else if !HARMLESS.contains(&key.as_str()) {
                unknown.push(key);
            }
        }
        if let Some(most) = self.max_completion_tokens {
            read.insert("max_tokens".to_owned(), most);
        }
        // OpenAI accepts 0, which leaves only the likeliest token.
        if read.get("top_p").and_then(Value::as_f64) == Some(0.0) {
            read.remove("top_p");
            read.insert("top_k".to_owned(), 1.into());
        }
        for (key, count) in [("n", self.n), ("best_of", self.best_of)] {
            if count.is_some_and(|count| count != Loose::Fit(1.0)) {
                return Err(invalid(format!("{key:?} can only be 1")));
            }
        }
        if self.echo.is_some_and(|echo| echo != Loose::Fit(false)) {
            return Err(invalid("\"echo\" can only be false".to_owned()));
        }
        // Turned off, they need no warning.
        let off = [Loose::Fit(0.0), Loose::Unfit(Value::Bool(false))];
        for (key, value) in [
            ("frequency_penalty", self.frequency_penalty),
            ("presence_penalty", self.presence_penalty),
            ("logprobs", self.logprobs),
            ("top_logprobs", self.top_logprobs),
        ] {
            if value.is_some_and(|value| !off.contains(&value)) {
                unknown.push(key.to_owned());
            }
        }
        unknown.sort();
        Ok(Asked { submission: submission(read)?, unknown })
    }
}

/// Reads a message, which may be in ThreadRunner's own format: it is a part of this one.
pub(crate) fn message(message: Loose<ChatMessage>) -> Result<Message, Failure> {
    let ChatMessage { role, content, .. } = match message {
        Loose::Fit(message) => message,
        Loose::Unfit(_) => ChatMessage::default(),
    };
    let role = match role {
        Loose::Fit(Role::System | Role::Developer) => core::Role::System,
        Loose::Fit(Role::User) => core::Role::User,
        Loose::Fit(Role::Assistant) => core::Role::Assistant,
        Loose::Unfit(word) => {
            return Err(invalid(format!("\"messages\": there is no role {word}")));
        }
    };
    let content = match content {
        Content::Text(text) => text,
        Content::Parts(parts) => parts.into_iter().map(|part| part.text).collect(),
        Content::Other(Value::Array(_)) => {
            return Err(invalid("\"messages\": only text parts are supported".to_owned()));
        }
        Content::Other(_) => {
            return Err(invalid("\"messages\": a \"content\" is not text".to_owned()));
        }
    };
    Ok(Message::new(role, content))
}
