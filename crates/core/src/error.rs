//! How things fail: a stable code on the wire, a coarse type for simple clients, an exit code for
//! scripts.
//!
//! A module's own error becomes a [`Failure`], whose [`ErrorCode`] determines the [`ErrorType`] and
//! the [`ExitCode`]. Each step is one exhaustive `match`, so that no new code can be forgotten.

use serde::{Deserialize, Serialize};

use crate::open_enum::open_enum;

/// What went wrong, in words for people, with a code for programs.
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

    /// Adds advice on what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The message, and the hint on a line of its own: the content of `error.txt`.
    pub fn to_text(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}\n{hint}\n", self.message),
            None => format!("{}\n", self.message),
        }
    }
}

open_enum! {
    /// The stable code of a failure. Codes are added, never renamed.
    #[non_exhaustive]
    pub enum ErrorCode {
        /// The frame is not one JSON object, is too long, or is cut short.
        BadFrame = "bad_frame",
        /// The frame's `v` is a version that this program does not speak.
        UnsupportedVersion = "unsupported_version",
        /// The request lacks a key, or a value is out of range.
        InvalidRequest = "invalid_request",
        /// The daemon cannot be reached or started.
        DaemonUnavailable = "daemon_unavailable",
        /// The daemon is stopping and takes no new work.
        ShuttingDown = "shutting_down",
        /// The connection ended before the answer did.
        ConnectionLost = "connection_lost",
        /// No model was named, and there is no default.
        NoModel = "no_model",
        /// No model has that name or path.
        ModelNotFound = "model_not_found",
        /// The model file cannot be loaded.
        ModelLoad = "model_load",
        /// The model needs more memory than the budget has.
        ModelTooLarge = "model_too_large",
        /// The backend is not compiled into this engine.
        BackendUnavailable = "backend_unavailable",
        /// The model or its engine does not take this kind of input.
        Unsupported = "unsupported",
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
        /// The job or the operation timed out.
        Timeout = "timeout",
        /// The queue or another limited resource is full.
        Overloaded = "overloaded",
        /// The job failed or was canceled.
        JobFailed = "job_failed",
        /// The job was canceled.
        Canceled = "canceled",
        /// A job that it waited for failed, was canceled, or was removed.
        DependencyFailed = "dependency_failed",
        /// No such job.
        JobNotFound = "job_not_found",
        /// A job of that id already exists.
        JobExists = "job_exists",
        /// The id matches more than one job, or the name more than one session.
        AmbiguousId = "ambiguous_id",
        /// The job is done, but has no text.
        NoText = "no_text",
        /// No such session.
        SessionNotFound = "session_not_found",
        /// The job's state does not allow it.
        WrongState = "wrong_state",
        /// No such file.
        FileNotFound = "file_not_found",
        /// A file, the disk or the output cannot be read or written.
        Io = "io",
        /// The configuration has a mistake.
        Config = "config",
        /// A bug.
        Internal = "internal",
    }
}

/// The coarse type of a failure, for the simplest clients: `error_type` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorType {
    /// The model is missing, does not load, or did not answer.
    ModelLoad,
    /// The request or the configuration is wrong, or needs something that does not exist.
    Protocol,
    /// The job or the operation ended before its time: it timed out or was canceled.
    Timeout,
    /// A file, the disk or the connection to the daemon failed, or the daemon has no room.
    Io,
    /// A bug, and types that this version does not know.
    #[serde(other)]
    Unknown,
}

/// Exit codes of `threadrunner`. Scripts rely on them; the README has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done, even if the reader of a pipe went away.
    Success = 0,
    /// Unexpected: a bug.
    Unknown = 1,
    /// The daemon cannot be reached or started, or speaks another protocol.
    Connection = 2,
    /// The model does not exist or does not load, or inference failed.
    Model = 3,
    /// The operation timed out.
    Timeout = 4,
    /// The queue is full; try again.
    Overloaded = 5,
    /// The job failed or was canceled.
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
            | Self::Unsupported
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

    /// The coarse type.
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
            | Self::WrongState
            | Self::DependencyFailed
            | Self::Config => ErrorType::Protocol,
            Self::NoModel
            | Self::ModelNotFound
            | Self::ModelLoad
            | Self::ModelTooLarge
            | Self::BackendUnavailable
            | Self::Unsupported
            | Self::ContextExceeded
            | Self::ChatTemplate
            | Self::Inference
            | Self::EngineDied
            | Self::JobFailed => ErrorType::ModelLoad,
            Self::Timeout | Self::Canceled => ErrorType::Timeout,
            Self::DaemonUnavailable
            | Self::ShuttingDown
            | Self::ConnectionLost
            | Self::FileNotFound
            | Self::Overloaded
            | Self::Io => ErrorType::Io,
            Self::Internal | Self::Unknown => ErrorType::Unknown,
        }
    }

    /// Whether the same request may succeed if sent again unchanged.
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
            | Self::Unsupported
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
            (ErrorCode::Overloaded, ErrorType::Io),
            (ErrorCode::JobFailed, ErrorType::ModelLoad),
            (ErrorCode::Canceled, ErrorType::Timeout),
            (ErrorCode::DependencyFailed, ErrorType::Protocol),
        ] {
            assert_eq!(code.error_type(), error_type, "{code:?}");
        }
        // Exit code 3 is about the model, and 64 about the request.
        for code in ErrorCode::ALL {
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
