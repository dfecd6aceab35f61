//! Results: the line that answers a line, and the bodies of answers and errors.

use serde::Serialize;
use serde_json::Value;
use threadrunner_core::protocol::EndFrame;
use threadrunner_core::{ErrorCode, Failure, FinishReason, JobId, Output, Role, ToolCall};

use super::request::Endpoint;

/// A line of the output. A failed one has both a response with a status and an error, because some
/// clients check the one and some the other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResultLine<'a> {
    /// The request's own; null if it cannot be read.
    pub custom_id: &'a Value,
    /// Why it failed.
    pub error: Option<LineError<'a>>,
    /// The result's own id.
    pub id: String,
    /// The number of the request's line, if nothing else identifies it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The answer, as the API would have sent it.
    pub response: Response<'a>,
}

/// Why a line failed: what ThreadRunner's own format says, too.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LineError<'a> {
    /// The stable code.
    pub code: ErrorCode,
    /// The line that has the same id already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate_of: Option<u64>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'a str>,
    /// The job that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<&'a JobId>,
    /// The number of the line.
    pub line: u64,
    /// What happened.
    pub message: &'a str,
}

/// A response as over HTTP.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Response<'a> {
    /// Its body.
    pub body: Body<'a>,
    /// The job.
    pub request_id: Option<&'a JobId>,
    /// The HTTP status.
    pub status_code: u16,
}

/// The body of a response.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Body<'a> {
    /// An answer.
    Completion(Completion<'a>),
    /// Why there is none.
    Error(ErrorBody<'a>),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Completion<'a> {
    /// The answer; never more than one.
    pub choices: [Choice<'a>; 1],
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The answer's id.
    pub id: String,
    /// The model's name.
    pub model: &'a str,
    /// What kind of answer it is.
    pub object: ObjectType,
    /// How many tokens were read and generated.
    pub usage: TokenUsage,
}

/// One of the possible answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice<'a> {
    /// Why it ended.
    pub finish_reason: Finish,
    /// Its number.
    pub index: u32,
    /// Always null.
    pub logprobs: (),
    /// What it says.
    #[serde(flatten)]
    pub said: Said<'a>,
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Said<'a> {
    /// The next message of a conversation.
    Message(AssistantMessage<'a>),
    /// The text that continues the prompt.
    Text(&'a str),
}

/// The model's message.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AssistantMessage<'a> {
    /// Its text.
    pub content: &'a str,
    /// Always the model.
    pub role: Role,
    /// The tools that it calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<&'a ToolCall>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// It was complete.
    Stop,
    /// It was cut.
    Length,
    /// It calls tools.
    ToolCalls,
}

impl From<FinishReason> for Finish {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Length | FinishReason::Repetition => Self::Length,
            FinishReason::ToolCalls => Self::ToolCalls,
            FinishReason::Stop | FinishReason::Canceled | FinishReason::Unknown => Self::Stop,
        }
    }
}

/// The kind of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ObjectType {
    /// To a chat request.
    #[serde(rename = "chat.completion")]
    ChatCompletion,
    /// To a completion request.
    #[serde(rename = "text_completion")]
    TextCompletion,
}

/// How many tokens were read and generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenUsage {
    /// Tokens generated.
    pub completion_tokens: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// More about the prompt.
    pub prompt_tokens_details: PromptTokensDetails,
    /// Both together.
    pub total_tokens: u64,
}

/// More about the tokens of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PromptTokensDetails {
    /// Those that were in the cache already.
    pub cached_tokens: u32,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorBody<'a> {
    /// The error.
    pub error: ApiError<'a>,
}

/// An error as the API reports it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ApiError<'a> {
    /// The stable code.
    pub code: ErrorCode,
    /// What happened.
    pub message: &'a str,
    /// Always null.
    pub param: (),
    /// `invalid_request_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
}

fn tool_calls(output: &Output) -> &[ToolCall] {
    match output {
        Output::ToolCalls { tool_calls } => tool_calls,
        _ => &[],
    }
}

impl<'a> Completion<'a> {
    /// The answer to a request of this kind. `created` is in seconds since 1970.
    pub fn new(endpoint: Endpoint, text: &'a str, end: &'a EndFrame, created: u64) -> Self {
        let (prefix, object, said) = match endpoint {
            Endpoint::Completions => ("cmpl", ObjectType::TextCompletion, Said::Text(text)),
            Endpoint::Chat => {
                let tool_calls = end.output.iter().flat_map(tool_calls).collect();
                let message = AssistantMessage { content: text, role: Role::Assistant, tool_calls };
                ("chatcmpl", ObjectType::ChatCompletion, Said::Message(message))
            }
        };
        let usage = end.usage;
        Self {
            choices: [Choice {
                finish_reason: end.finish_reason.into(),
                index: 0,
                logprobs: (),
                said,
            }],
            created,
            id: format!("{prefix}-{}", end.job),
            model: &end.model,
            object,
            usage: TokenUsage {
                completion_tokens: usage.completion_tokens,
                prompt_tokens: usage.prompt_tokens,
                prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached_tokens },
                total_tokens: u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens),
            },
        }
    }
}

impl<'a> ErrorBody<'a> {
    /// The error that reports `failure`.
    pub fn new(failure: &'a Failure) -> Self {
        let kind = match status(failure.code) < 500 {
            true => "invalid_request_error",
            false => "server_error",
        };
        let message = &failure.message;
        Self { error: ApiError { code: failure.code, message, param: (), kind } }
    }
}

/// The HTTP status of a failure.
pub fn status(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::InvalidRequest
        | ErrorCode::Unsupported
        | ErrorCode::EmptyPrompt
        | ErrorCode::ContextExceeded => 400,
        ErrorCode::ModelNotFound | ErrorCode::NoModel => 404,
        ErrorCode::Timeout => 408,
        _ => 500,
    }
}
