//! What clients and the daemon say to each other. `docs/protocol.md` describes it for people.
//!
//! A request is one frame with `"v":1`. Without `"op"` it is the simplest form, a prompt, and is
//! answered by token frames. With `"op"` and an `"id"`, many may be under way on a connection, and
//! every frame of an answer repeats the id. An answer is any number of [`ReplyBody::Event`] and
//! [`ReplyBody::Token`] and exactly one of [`ReplyBody::End`], [`ReplyBody::Data`] and
//! [`ReplyBody::Error`].

mod bounds;
mod data;
mod ops;
mod queries;
mod words;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::job::known_roles;
use crate::open_enum::known_if_any;
use crate::{
    BackendKind, ErrorCode, ErrorType, Failure, FinishReason, JobId, JobStatus, KeepAlive, Message,
    Parameters, Priority, SessionName, Timings, Usage,
};

pub use data::*;
pub use ops::{Ask, FirstReply, Ids, Op, Treatment, ask};
pub use queries::*;
pub use words::{explain, reads_key};

/// The versions of the protocol that this program speaks.
pub const VERSIONS: &[u32] = &[VERSION];

/// The version of the protocol that this program writes.
pub const VERSION: u32 = 1;

/// Names a request on its connection; the answer repeats it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RequestId {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

/// One request frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What the answer repeats; `None` in the simplest form.
    pub id: Option<RequestId>,
    /// What is asked.
    pub op: Op,
}

/// A prompt and everything that goes with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Submission {
    /// The id that the job is to have; else the daemon gives it one. Who chooses it can ask for the
    /// job again after its connection broke: of one id there is one job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// The prompt.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// A conversation that goes before the prompt.
    #[serde(deserialize_with = "known_roles", skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// Instructions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// No chat template.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
    /// `false` sends the text in one token frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Of `run`: the job goes on when the client goes away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
    /// The backend; else the daemon's default.
    #[serde(deserialize_with = "known_if_any", skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendKind>,
    /// The model: a path, a name in `models/`, or an alias; else the daemon's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The draft model, named as a model is; else as configured for the model. `none` is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft: Option<String>,
    /// How the answer is generated.
    #[serde(flatten)]
    pub params: Parameters,
    /// Who goes first; an attached request is interactive unless it says otherwise.
    #[serde(deserialize_with = "known_if_any", skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Seconds from now to the deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<f64>,
    /// Words to find the job by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The job that this one follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// Jobs that must end before this one begins: ids, unambiguous parts of ids, or `last`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Whether a failure among `after` is no reason to fail.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub after_any: bool,
    /// References to jobs' answers ([`crate::template`]) are replaced, and their jobs waited for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub template: bool,
    /// Of the prompt, only the first so many bytes are read for references.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_bytes: Option<u64>,
    /// How often the job is begun before it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// A program run without a shell when the job has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_done: Option<PathBuf>,
    /// How long the model stays loaded after this; else as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// The workspace, by its name in `config.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// The conversation of that workspace that this is the next turn of; it begins with the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionName>,
    /// Of a session's turn: the turn that it takes the place of, which must be the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<JobId>,
    /// Of a session's turn: `backend` and `model` are for a session that has none yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub usual_model: bool,
}

/// One answer frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<RequestId>,
    /// What is answered.
    #[serde(flatten)]
    pub body: ReplyBody,
}

/// What an answer frame holds, told apart by its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ReplyBody {
    /// The request failed: the last frame.
    Error(ErrorFrame),
    /// More text.
    Token {
        /// The text, in whole characters.
        token: String,
        /// Always false.
        eos: bool,
    },
    /// The answer is complete: the last frame.
    End(Box<EndFrame>),
    /// What is happening.
    Event(Progress),
    /// The answer to anything but a prompt: the last frame.
    Data {
        /// By the request: [`Ask::Answer`].
        data: Value,
    },
    /// A frame from a newer program. It says nothing that this one needs, and is not the last.
    Unknown {},
}

/// The request failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorFrame {
    /// What happened, with the path or value it happened to.
    pub error: String,
    /// The coarse type.
    pub error_type: ErrorType,
    /// The stable code.
    pub code: ErrorCode,
    /// Whether the same request may succeed when sent again.
    pub retryable: bool,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The job, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

impl ErrorFrame {
    /// The frame that tells of `failure`.
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

    /// The failure that the frame tells of.
    pub fn into_failure(self) -> Failure {
        Failure { code: self.code, message: self.error, hint: self.hint }
    }
}

/// The answer is complete.
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
    /// Tokens.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// What is happening to a request, by `"event"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// The job is on disk and survives a crash.
    Accepted {
        /// Its id.
        job: JobId,
    },
    /// The job waits for its turn.
    Queued {
        /// How many go before it, and one.
        position: u32,
    },
    /// The job waits for the end of others.
    Waiting {
        /// One of them.
        on: JobId,
        /// How many more there are.
        others: u32,
    },
    /// The job's model is being loaded.
    Loading {
        /// The model's name.
        model: String,
        /// From 0 to 1.
        fraction: f32,
    },
    /// The prompt is being read.
    Prefill {
        /// Tokens read.
        done: u32,
        /// Tokens to read.
        total: u32,
    },
    /// The attempt failed and the job will be begun again; text sent so far is void.
    Restarted {
        /// Why.
        reason: String,
    },
    /// Of `watch`: whatever changes from now on is told.
    Watching {
        /// How many jobs are queued or running.
        live: u32,
    },
    /// Of `watch`: a job changed.
    Changed {
        /// The job.
        job: JobId,
        /// How it stands now; `None` when it was removed.
        state: Option<JobStatus>,
        /// How many jobs are queued or running now.
        live: u32,
    },
    /// Of `watch`: the client did not keep up, and some changes were not told. It lists anew.
    Missed {
        /// How many were not.
        count: u64,
    },
    /// An event from a newer program.
    #[serde(other, skip_serializing)]
    Unknown,
}

impl Request {
    /// Reads a request frame.
    ///
    /// # Errors
    /// A [`Failure`] for the client, with the request's id where there is one: not JSON, not an
    /// object, an unknown `v` (named with the versions spoken), an unknown `op`, a value of the
    /// wrong type, or more than a request may hold.
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
                (None, invalid("\"id\" must be a number from 0 or a text".to_owned()))
            })?),
        };
        if let Some(id) = &id {
            bounds::check_id(id).map_err(|failure| (None, failure))?;
        }
        match bounds::check_texts(&object).and_then(|()| Self::parse_op(object, frame)) {
            Ok(op) => Ok(Self { id, op }),
            Err(failure) => Err((id, bounds::shorten(failure))),
        }
    }

    fn parse_op(mut object: Map<String, Value>, frame: &[u8]) -> Result<Op, Failure> {
        let version = object.remove("v").unwrap_or(Value::Null);
        // What is null was left out.
        object.retain(|_, value| !value.is_null());
        let spoken = version.as_u64().is_some_and(|v| VERSIONS.iter().any(|&s| u64::from(s) == v));
        let op = object.get("op").map(|op| op.as_str().unwrap_or_default().to_owned());
        // A daemon must be able to make way for one of another version.
        if !spoken && op.as_deref() != Some("stop") {
            return Err(Failure::new(
                ErrorCode::UnsupportedVersion,
                format!("\"v\" is {version}, but this daemon speaks {VERSIONS:?}"),
            )
            .hint("run `threadrunner daemon restart` after an upgrade"));
        }
        let wrong = |error: serde_json::Error, explain: Explain| {
            // Read once more, because what was read is gone: only what is refused costs that.
            let mut object: Map<String, Value> = serde_json::from_slice(frame).unwrap_or_default();
            object.retain(|_, value| !value.is_null());
            invalid(explain(&object, &error))
        };
        if op.is_some() {
            return serde_json::from_value(Value::Object(object))
                .map_err(|error| wrong(error, explain::<Op>));
        }
        if !object.contains_key("prompt") && !object.contains_key("messages") {
            return Err(invalid("the request has neither \"op\" nor \"prompt\"".to_owned()));
        }
        serde_json::from_value(Value::Object(object))
            .map(|submission| Op::Simple(Box::new(submission)))
            .map_err(|error| wrong(error, explain::<Submission>))
    }

    /// The JSON of this request.
    pub fn to_json(&self) -> Value {
        let body = match &self.op {
            Op::Simple(submission) => serde_json::to_value(submission),
            op => serde_json::to_value(op),
        };
        // Every field of a request is plain data with string keys, which serde_json always takes.
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
