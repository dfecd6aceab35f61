//! How things fail: a stable code on the wire, a type for simple clients, an exit code for scripts.
//!
//! The path is one way: a module's own error -> [`Failure`] (code and message) -> [`ExitCode`].
//! Each mapping is one exhaustive `match`, so a new code cannot be forgotten in any of them.

use serde::{Deserialize, Serialize};

use crate::open_enum::open_enum;

/// What went wrong, in words for a person, with a code for a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The stable code.
    pub code: ErrorCode,
    /// What happened, with the path or value it happened to.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with this code and message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The same failure with advice on what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The message and, on a line of its own, the hint: the content of `error.txt`.
    pub fn to_text(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}\n{hint}\n", self.message),
            None => format!("{}\n", self.message),
        }
    }
}

open_enum! {
    /// Stable codes of everything that can fail. Codes are added, never renamed.
    #[non_exhaustive]
    pub enum ErrorCode {
        /// The frame is not one JSON object, is too long, or is cut short.
        BadFrame = "bad_frame",
        /// The frame's `v` is none that this program speaks.
        UnsupportedVersion = "unsupported_version",
        /// The request lacks something or holds a value out of range.
        InvalidRequest = "invalid_request",
        /// The daemon cannot be reached or started.
        DaemonUnavailable = "daemon_unavailable",
        /// The daemon is ending and takes no new work.
        ShuttingDown = "shutting_down",
        /// The connection ended before the answer did.
        ConnectionLost = "connection_lost",
        /// No model was named and none can be chosen.
        NoModel = "no_model",
        /// No model goes by that name or path.
        ModelNotFound = "model_not_found",
        /// The model file cannot be loaded.
        ModelLoad = "model_load",
        /// The model takes more memory than the budget has.
        ModelTooLarge = "model_too_large",
        /// The backend is not built into this engine.
        BackendUnavailable = "backend_unavailable",
        /// The prompt is empty.
        EmptyPrompt = "empty_prompt",
        /// The prompt needs more tokens than the context has.
        ContextExceeded = "context_exceeded",
        /// The model's chat template cannot be rendered.
        ChatTemplate = "chat_template",
        /// Inference failed.
        Inference = "inference",
        /// The engine process died.
        EngineDied = "engine_died",
        /// The job's or the operation's time is over.
        Timeout = "timeout",
        /// The queue is full.
        Overloaded = "overloaded",
        /// The job failed or was canceled.
        JobFailed = "job_failed",
        /// The job was canceled.
        Canceled = "canceled",
        /// A job that it waited for failed, was canceled, or is no more.
        DependencyFailed = "dependency_failed",
        /// No such job.
        JobNotFound = "job_not_found",
        /// There is a job of that id already.
        JobExists = "job_exists",
        /// The id fits more than one job.
        AmbiguousId = "ambiguous_id",
        /// The job is done, and there is no text that it has made.
        NoText = "no_text",
        /// No such session.
        SessionNotFound = "session_not_found",
        /// The job's state does not allow it.
        WrongState = "wrong_state",
        /// No such file.
        FileNotFound = "file_not_found",
        /// Reading or writing a file failed.
        Io = "io",
        /// The configuration is wrong.
        Config = "config",
        /// A bug.
        Internal = "internal",
    }
}

/// The coarse type that the simplest clients are promised in `error_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorType {
    /// The model is missing, does not load, or cannot answer.
    ModelLoad,
    /// The request is malformed, or names something that does not exist.
    Protocol,
    /// Time is up.
    Timeout,
    /// A file, the disk, or the connection to the daemon.
    Io,
    /// Anything else, and types that a newer program sends.
    #[serde(other)]
    Unknown,
}

/// Exit codes of `threadrunner`. Scripts rely on them; the README has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done, also when the reader of a pipe went away.
    Success = 0,
    /// Unexpected: a bug.
    Unknown = 1,
    /// The daemon cannot be reached or started, or speaks another protocol.
    Connection = 2,
    /// No such model, it does not load, inference failed.
    Model = 3,
    /// The operation timed out.
    Timeout = 4,
    /// Queue full, try again.
    Overloaded = 5,
    /// A job that was asked about failed or was canceled.
    Failed = 6,
    /// No such job, session or file.
    NotFound = 7,
    /// Wrong arguments or configuration.
    Usage = 64,
    /// A file, the disk or the output cannot be read or written.
    Io = 74,
    /// Ctrl-C.
    Interrupted = 130,
}

impl ErrorCode {
    /// The exit code of a command that ends with this failure.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::BadFrame
            | Self::UnsupportedVersion
            | Self::DaemonUnavailable
            | Self::ShuttingDown
            | Self::ConnectionLost => ExitCode::Connection,
            Self::NoModel
            | Self::ModelNotFound
            | Self::ModelLoad
            | Self::ModelTooLarge
            | Self::BackendUnavailable
            | Self::ContextExceeded
            | Self::ChatTemplate
            | Self::Inference
            | Self::EngineDied => ExitCode::Model,
            Self::Timeout => ExitCode::Timeout,
            Self::Overloaded => ExitCode::Overloaded,
            Self::JobFailed | Self::Canceled | Self::DependencyFailed | Self::WrongState => {
                ExitCode::Failed
            }
            Self::JobNotFound | Self::NoText | Self::SessionNotFound | Self::FileNotFound => {
                ExitCode::NotFound
            }
            Self::InvalidRequest
            | Self::EmptyPrompt
            | Self::JobExists
            | Self::AmbiguousId
            | Self::Config => ExitCode::Usage,
            Self::Io => ExitCode::Io,
            Self::Internal | Self::Unknown => ExitCode::Unknown,
        }
    }

    /// The coarse type, for the simplest clients.
    pub fn error_type(self) -> ErrorType {
        match self {
            Self::BadFrame
            | Self::UnsupportedVersion
            | Self::InvalidRequest
            | Self::EmptyPrompt
            | Self::JobNotFound
            | Self::NoText
            | Self::JobExists
            | Self::AmbiguousId
            | Self::SessionNotFound
            | Self::WrongState => ErrorType::Protocol,
            Self::NoModel
            | Self::ModelNotFound
            | Self::ModelLoad
            | Self::ModelTooLarge
            | Self::BackendUnavailable
            | Self::ContextExceeded
            | Self::ChatTemplate
            | Self::Inference
            | Self::EngineDied => ErrorType::ModelLoad,
            Self::Timeout => ErrorType::Timeout,
            Self::DaemonUnavailable
            | Self::ShuttingDown
            | Self::ConnectionLost
            | Self::FileNotFound
            | Self::Io => ErrorType::Io,
            Self::Overloaded
            | Self::JobFailed
            | Self::Canceled
            | Self::DependencyFailed
            | Self::Config
            | Self::Internal
            | Self::Unknown => ErrorType::Unknown,
        }
    }

    /// Whether the same request may succeed when sent again unchanged.
    pub fn retryable(self) -> bool {
        match self {
            Self::Overloaded
            | Self::ShuttingDown
            | Self::ConnectionLost
            | Self::EngineDied
            | Self::Timeout => true,
            Self::BadFrame
            | Self::UnsupportedVersion
            | Self::InvalidRequest
            | Self::DaemonUnavailable
            | Self::NoModel
            | Self::ModelNotFound
            | Self::ModelLoad
            | Self::ModelTooLarge
            | Self::BackendUnavailable
            | Self::EmptyPrompt
            | Self::ContextExceeded
            | Self::ChatTemplate
            | Self::Inference
            | Self::JobFailed
            | Self::Canceled
            | Self::DependencyFailed
            | Self::JobNotFound
            | Self::NoText
            | Self::SessionNotFound
            | Self::JobExists
            | Self::AmbiguousId
            | Self::WrongState
            | Self::FileNotFound
            | Self::Io
            | Self::Config
            | Self::Internal
            | Self::Unknown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_wire() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert_eq!(serde_json::from_value::<ErrorCode>(code.as_str().into()).unwrap(), *code);
        }
    }

    #[test]
    fn what_a_simple_client_meets_has_a_type_of_its_own() {
        for (code, error_type) in [
            (ErrorCode::ContextExceeded, ErrorType::ModelLoad),
            (ErrorCode::EngineDied, ErrorType::ModelLoad),
            (ErrorCode::Inference, ErrorType::ModelLoad),
            (ErrorCode::ShuttingDown, ErrorType::Io),
            (ErrorCode::Timeout, ErrorType::Timeout),
            (ErrorCode::JobNotFound, ErrorType::Protocol),
        ] {
            assert_eq!(code.error_type(), error_type, "{code:?}");
        }
        // The model is what exit code 3 and its type are about, and the request what 64 is.
        for code in ErrorCode::ALL.iter().filter(|code| **code != ErrorCode::Config) {
            match code.exit_code() {
                ExitCode::Model => assert_eq!(code.error_type(), ErrorType::ModelLoad, "{code:?}"),
                ExitCode::Usage => assert_eq!(code.error_type(), ErrorType::Protocol, "{code:?}"),
                ExitCode::Connection | ExitCode::Io | ExitCode::NotFound => {
                    assert_ne!(code.error_type(), ErrorType::Unknown, "{code:?}");
                }
                _ => {}
            }
        }
    }

    #[test]
    fn only_a_bug_and_what_nobody_knows_are_exit_code_1() {
        let bugs = ErrorCode::ALL.iter().filter(|code| code.exit_code() == ExitCode::Unknown);
        assert_eq!(bugs.collect::<Vec<_>>(), [&ErrorCode::Internal]);
        assert_eq!(ErrorCode::Unknown.exit_code(), ExitCode::Unknown);
    }

    #[test]
    fn a_code_from_the_future_is_unknown_and_not_an_error() {
        let code: ErrorCode = serde_json::from_str("\"out_of_unicorns\"").unwrap();
        assert_eq!(code, ErrorCode::Unknown);
    }
}
