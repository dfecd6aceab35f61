//! Why a command ended early, and the exit code for it.

use std::io;

use threadrunner_core::{ErrorCode, ExitCode, Failure, JobId};

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// It failed; `job` is the job that it was about, if any.
    Failed { failure: Failure, job: Option<JobId> },
    /// The user pressed Ctrl-C.
    Interrupted,
    /// The reader of standard output went away. It has what it wanted, so this is a success.
    ReaderGone,
    /// There is nothing left to say.
    Silent(ExitCode),
}

/// The result of a command: its exit code, or why it ended early.
pub(crate) type CommandResult = Result<ExitCode, CommandError>;

impl CommandError {
    /// A failure caused by the user's arguments.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure::new(ErrorCode::InvalidRequest, message).hint(hint).into()
    }

    /// A failure that is about this job, if it is about one.
    pub(crate) fn about(failure: Failure, job: Option<&JobId>) -> Self {
        Self::Failed { failure, job: job.cloned() }
    }

    /// The exit code for this error.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Failed { failure, .. } => failure.code.exit_code(),
            Self::Interrupted => ExitCode::Interrupted,
            Self::ReaderGone => ExitCode::Success,
            Self::Silent(code) => *code,
        }
    }
}

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        Self::Failed { failure, job: None }
    }
}

/// A failed write to standard output, the only I/O that commands do without handling its errors.
impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::ReaderGone;
        }
        Failure::new(ErrorCode::Io, format!("cannot write to standard output: {error}")).into()
    }
}

/// The failure for a thread or descriptor that the system refuses.
pub(crate) fn refused_by_system(what: &str, error: &io::Error) -> Failure {
    Failure::new(ErrorCode::Io, format!("cannot {what}: {error}"))
        .hint("there may be too many processes or open files: see `ulimit -a`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_went_away_is_success_and_a_full_disk_is_not() {
        let gone = CommandError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(gone.exit_code(), ExitCode::Success);
        let full = CommandError::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.exit_code(), ExitCode::Io);
    }

    #[test]
    fn exit_codes_are_those_of_the_contract() {
        let exit = |code| CommandError::from(Failure::new(code, "")).exit_code() as u8;
        assert_eq!(exit(ErrorCode::Internal), 1);
        assert_eq!(exit(ErrorCode::DaemonUnavailable), 2);
        assert_eq!(exit(ErrorCode::ConnectionLost), 2);
        assert_eq!(exit(ErrorCode::UnsupportedVersion), 2);
        assert_eq!(exit(ErrorCode::ModelNotFound), 3);
        assert_eq!(exit(ErrorCode::EngineDied), 3);
        assert_eq!(exit(ErrorCode::Timeout), 4);
        assert_eq!(exit(ErrorCode::Overloaded), 5);
        assert_eq!(exit(ErrorCode::Canceled), 6);
        assert_eq!(exit(ErrorCode::JobNotFound), 7);
        assert_eq!(exit(ErrorCode::EmptyPrompt), 64);
        assert_eq!(exit(ErrorCode::Config), 64);
        assert_eq!(CommandError::Interrupted.exit_code() as u8, 130);
        assert_eq!(CommandError::usage("", "").exit_code() as u8, 64);
    }
}
