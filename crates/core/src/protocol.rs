//! The protocol between clients and the daemon. `docs/protocol.md` describes it for other programs.
//!
//! A [`Request`] is one frame with `"v":1`. Without `"op"` it has the simplest form: a prompt,
//! answered by token frames. With `"op"`, it may have an `"id"`, which every frame of the answer
//! repeats, so many requests can be in progress on one connection. [`Op`] lists the operations.
//!
//! An answer is a sequence of [`Reply`] frames: any number of [`ReplyBody::Event`] and
//! [`ReplyBody::Token`], then exactly one [`ReplyBody::End`], [`ReplyBody::Data`] or
//! [`ReplyBody::Error`].

mod bounds;
mod data;
mod ops;
mod queries;
mod words;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::message::known_messages;
use crate::open_enum::known_if_any;
use crate::tool::known_tools;
use crate::{
    BackendKind, ErrorCode, ErrorType, Failure, FinishReason, JobId, JobSelector, JobStatus,
    KeepAlive, Message, Output, Parameters, Priority, SessionName, Timings, Tool, Usage,
    WorkspaceName,
};

pub use bounds::check_messages;
pub use data::*;
pub use ops::{Ask, FirstReply, Ids, Op, Treatment, ask};
pub use queries::*;
pub use words::{explain, in_plain_words, reads_key};

/// The protocol versions that this program speaks.
pub const VERSIONS: &[u32] = &[VERSION];

/// The protocol version that this program writes.
pub const VERSION: u32 = 1;

/// Identifies a request on its connection. Every frame of the answer repeats it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RequestId {
    /// A non-negative integer.
    Number(u64),
    /// A string.
    Text(String),
}

/// A request frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The id that every frame of the answer repeats, if the request has one.
    pub id: Option<RequestId>,
    /// The operation.
    pub op: Op,
}

/// A prompt and its options.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Submission {
    /// The job's id; `None` lets the daemon make one. An id belongs to one job, so a client whose
    /// connection broke can submit the same id again without getting two jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// The prompt.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// A conversation that precedes the prompt.
    #[serde(deserialize_with = "known_messages", skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// The tools that the model can call.
    #[serde(deserialize_with = "known_tools", skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// Instructions, as a system message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Sends the prompt to the model as it is, without its chat template.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
    /// `false` sends the text in one token frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// For `run`: the job continues when the client goes away, and has the default priority of
    /// `submit`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
    /// The backend; `None` is the daemon's default.
    #[serde(deserialize_with = "known_if_any", skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendKind>,
    /// The model: a path, a name in `models/`, or an alias; `None` is the default of the workspace,
    /// or else of the daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The draft model, named like a model; `none` disables it. `None` is the one configured for
    /// the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft: Option<String>,
    /// How to generate the answer.
    #[serde(flatten)]
    pub params: Parameters,
    /// The priority. Default: the workspace's, or else `interactive` if the job ends with its
    /// client and `normal` if not.
    #[serde(deserialize_with = "known_if_any", skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Seconds from submission to the job's deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<f64>,
    /// Words to find the job by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The job that this one follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// Jobs that must be done before this one begins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<JobSelector>,
    /// Begins when the jobs in `after` have ended, even if some failed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub after_any: bool,
    /// Replaces references to other jobs' answers ([`crate::template`]), and waits for those jobs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub template: bool,
    /// Looks for references only in this many bytes at the start of `prompt`; `None` is all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_bytes: Option<u64>,
    /// The maximum number of attempts before the job fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// A program to run, without a shell, when the job has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_done: Option<PathBuf>,
    /// How long the model stays loaded afterwards; `None` is as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// The workspace: a name in `config.toml`, or the absolute path of a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceName>,
    /// The conversation in that workspace of which this is the next turn. A new name begins one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionName>,
    /// For a session's turn: the turn that it replaces, which must be the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<JobId>,
    /// For a session's turn: `backend` and `model` apply only if the session has no model yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub usual_model: bool,
}

/// An answer frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<RequestId>,
    /// The content.
    #[serde(flatten)]
    pub body: ReplyBody,
}

/// The content of an answer frame. Its keys tell the variants apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ReplyBody {
    /// The last frame: the request failed.
    Error(ErrorFrame),
    /// More text of the answer.
    Token {
        /// The text, always in whole characters.
        token: String,
        /// Always false.
        eos: bool,
    },
    /// The last frame: the answer is complete.
    End(Box<EndFrame>),
    /// Progress of the request.
    Event(Progress),
    /// The last frame, for everything that is not a prompt.
    Data {
        /// A value whose type depends on the operation: [`Ask::Answer`].
        data: Value,
    },
    /// A kind of frame that this version does not know. It is never the last one, and can be
    /// ignored.
    Unknown(UnknownFrame),
}

/// A frame without any of the keys that tell the known kinds apart. One that has such a key and is
/// not of that kind is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct UnknownFrame {}

impl TryFrom<Map<String, Value>> for UnknownFrame {
    type Error = &'static str;

    fn try_from(frame: Map<String, Value>) -> Result<Self, Self::Error> {
        let known = ["error", "token", "eos", "event", "data"];
        match known.iter().any(|key| frame.contains_key(*key)) {
            true => Err("the frame lacks keys of its kind"),
            false => Ok(Self {}),
        }
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorFrame {
    /// What happened, with the path or value it happened to.
    pub error: String,
    /// The coarse type, for simple clients.
    pub error_type: ErrorType,
    /// The stable code.
    pub code: ErrorCode,
    /// Whether the same request may succeed if sent again unchanged.
    pub retryable: bool,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The job, if the error is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

impl ErrorFrame {
    /// The frame that reports `failure`.
    pub fn new(failure: Failure, job: Option<JobId>) -> Self {
        Self {
            error: failure.message,
            error_type: failure.code.error_type(),
            code: failure.code,
            retryable: failure.code.retryable(),
            hint: failure.hint,
            job,
        }
    }

    /// The failure that the frame reports.
    pub fn into_failure(self) -> Failure {
        Failure { code: self.code, message: self.error, hint: self.hint }
    }
}

/// The end of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndFrame {
    /// Always null.
    pub token: (),
    /// Always true.
    pub eos: bool,
    /// The job.
    pub job: JobId,
    /// The model's name.
    pub model: String,
    /// Why generation ended.
    pub finish_reason: FinishReason,
    /// How many tokens were read and generated.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
    /// What the answer holds beside its text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<Output>,
}

/// Progress of a request. The key `"event"` names the variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// The job is on disk and survives a crash.
    Accepted {
        /// Its id.
        job: JobId,
    },
    /// The job waits in the queue.
    Queued {
        /// Its place in the queue, from 1.
        position: u32,
    },
    /// The job is held until other jobs have ended.
    Waiting {
        /// One of those jobs.
        on: JobId,
        /// How many more there are.
        others: u32,
    },
    /// The model is being loaded.
    Loading {
        /// The model's name.
        model: String,
        /// The progress, from 0 to 1.
        fraction: f32,
    },
    /// The prompt is being read.
    Prefill {
        /// The number of tokens read so far.
        done: u32,
        /// The number of tokens in the prompt.
        total: u32,
    },
    /// The job was begun again, and its new text differs: discard the text received so far.
    Restarted {
        /// Why.
        reason: String,
    },
    /// For `watch`: changes from now on are reported.
    Watching {
        /// How many jobs are queued or running.
        live: u32,
    },
    /// For `watch`: a job's state changed.
    Changed {
        /// The job.
        job: JobId,
        /// Its new state; `None` if it was removed.
        state: Option<JobStatus>,
        /// How many jobs are queued or running now.
        live: u32,
    },
    /// For `watch`: the client did not keep up, so some changes were not reported. It should list
    /// the jobs again.
    Missed {
        /// How many changes were not reported.
        count: u64,
    },
    /// An event that this version does not know.
    #[serde(other, skip_serializing)]
    Unknown,
}

impl Request {
    /// Parses a request frame.
    ///
    /// # Errors
    /// A [`Failure`] for the client, with the request's id if it could be read: the frame is not a
    /// JSON object; `v` is not in [`VERSIONS`], unless `op` is `stop`; `op` or another word is
    /// unknown; a key is missing; a value has the wrong type; or the request exceeds the bounds on
    /// what a request may hold.
    pub fn parse(frame: &[u8]) -> Result<Self, (Option<RequestId>, Failure)> {
        bounds::check_frame(frame).map_err(|failure| (None, failure))?;
        let value: Value = serde_json::from_slice(frame).map_err(|error| {
            (None, Failure::new(ErrorCode::BadFrame, format!("the frame is not JSON: {error}")))
        })?;
        let Value::Object(mut object) = value else {
            let failure = Failure::new(ErrorCode::BadFrame, "the frame is not a JSON object");
            return Err((None, failure));
        };
        let id = match object.remove("id") {
            None | Some(Value::Null) => None,
            Some(id) => Some(serde_json::from_value(id).map_err(|_| {
                (None, invalid("\"id\" must be a whole number from 0 or a text".to_owned()))
            })?),
        };
        if let Some(id) = &id {
            bounds::check_id(id).map_err(|failure| (None, failure))?;
        }
        let read = bounds::check_texts(&object).and_then(|()| Self::parse_op(object, frame));
        match read.and_then(|op| bounds::check_op(&op).map(|()| op)) {
            Ok(op) => Ok(Self { id, op }),
            Err(failure) => Err((id, bounds::shorten(failure))),
        }
    }

    fn parse_op(mut object: Map<String, Value>, frame: &[u8]) -> Result<Op, Failure> {
        let version = object.remove("v").unwrap_or(Value::Null);
        // `null` means the same as a missing key.
        object.retain(|_, value| !value.is_null());
        let spoken = version.as_u64().is_some_and(|v| VERSIONS.iter().any(|&s| u64::from(s) == v));
        let op = object.get("op").map(|op| op.as_str().unwrap_or_default().to_owned());
        // A client of any version must be able to stop this daemon, to replace it.
        if !spoken && op.as_deref() != Some("stop") {
            if version.is_null() {
                let missing = format!("\"v\" is missing: this daemon speaks {VERSIONS:?}");
                return Err(Failure::new(ErrorCode::UnsupportedVersion, missing)
                    .hint(format!("add \"v\":{VERSION} to the request")));
            }
            return Err(Failure::new(
                ErrorCode::UnsupportedVersion,
                format!("\"v\" is {version}, but this daemon speaks {VERSIONS:?}"),
            )
            .hint("run `threadrunner daemon restart` after an upgrade"));
        }
        let wrong = |error: serde_json::Error, explain: Explain| {
            // The object was consumed. Parsing the frame again costs only requests that are
            // refused.
            let mut object: Map<String, Value> = serde_json::from_slice(frame).unwrap_or_default();
            object.retain(|_, value| !value.is_null());
            invalid(explain(&object, &error))
        };
        // Serde would take a number for the position of an operation in the list.
        if object.get("op").is_some_and(|op| !op.is_string()) {
            return Err(invalid("\"op\": must be a text, the name of an operation".to_owned()));
        }
        if op.is_some() {
            return serde_json::from_value(Value::Object(object))
                .map_err(|error| wrong(error, explain::<Op>));
        }
        if !object.contains_key("prompt") && !object.contains_key("messages") {
            return Err(invalid("the request needs \"op\", \"prompt\" or \"messages\"".to_owned()));
        }
        serde_json::from_value(Value::Object(object))
            .map(|submission| Op::Simple(Box::new(submission)))
            .map_err(|error| wrong(error, explain::<Submission>))
    }

    /// The request as JSON.
    pub fn to_json(&self) -> Value {
        let body = match &self.op {
            Op::Simple(submission) => serde_json::to_value(submission),
            op => serde_json::to_value(op),
        };
        // Cannot fail: a request is plain data with string keys.
        let mut body = body.unwrap_or_default();
        body["v"] = VERSION.into();
        if let Some(id) = &self.id {
            body["id"] = match id {
                RequestId::Number(number) => (*number).into(),
                RequestId::Text(text) => text.as_str().into(),
            };
        }
        body
    }
}

type Explain = fn(&Map<String, Value>, &serde_json::Error) -> String;

fn invalid(message: String) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, message)
}

#[cfg(test)]
mod tests;
