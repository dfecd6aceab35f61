//! How a command talks to the daemon: a [`Session`], within a [`Limit`] of time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use threadrunner_client::{Daemon, Phase, Replies};
use threadrunner_core::protocol::{Ask, Op, ReplyBody};
use threadrunner_core::{ErrorCode, Failure};
use threadrunner_home::{Home, interrupt_is_ignored};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::config_changes::tell_of_changes;
use crate::error::{CommandError, CommandResult, refused_by_system};
use crate::output;
use crate::spinner::{Spinner, phase_label, progress_label};

/// Phases of reaching the daemon that may wait to be shown. There are only a few.
const PHASES: usize = 16;

/// When to give up, and what to say then.
#[derive(Debug, Clone)]
pub(crate) struct Limit {
    after: Duration,
    deadline: Instant,
    /// What happens to the job that was waited for.
    consequence: &'static str,
}

impl Limit {
    /// A limit that starts now.
    pub(crate) fn from_now(after: Duration, consequence: &'static str) -> Self {
        // A limit beyond what the clock can represent becomes about 34 years.
        let deadline = Instant::now().checked_add(after);
        let deadline = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(1 << 30));
        Self { after, deadline, consequence }
    }

    /// The duration of the limit.
    pub(crate) fn after(&self) -> Duration {
        self.after
    }

    /// When it expires.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The failure to report then.
    pub(crate) fn failure(&self) -> Failure {
        Failure::new(ErrorCode::Timeout, format!("timed out after {:?}", self.after))
            .hint(format!("{}; --timeout sets the limit", self.consequence))
    }
}

/// A command's conversation with the daemon. While it waits, it listens for Ctrl-C, enforces the
/// time limit, and shows what is happening.
pub(crate) struct Session {
    daemon: Arc<Daemon>,
    phases: mpsc::Receiver<Phase>,
    /// Ctrl-C; `None` if it is ignored, as it is for a script's background jobs.
    interrupt: Option<Signal>,
    limit: Option<Limit>,
    pub(crate) spinner: Spinner,
    /// Whether a request was sent that `config.toml` affects.
    pub(crate) obeys_config: bool,
    /// Whether to report an answer's timings.
    pub(crate) verbose: bool,
    /// Whether to show an answer without formatting its Markdown, even on a terminal.
    pub(crate) plain: bool,
}

/// Runs `work` in a session with the daemon of `home`.
pub(crate) fn with_session(
    home: Home,
    limit: Option<Limit>,
    work: impl AsyncFnOnce(&mut Session) -> CommandResult,
) -> CommandResult {
    let refused = |error| refused_by_system("set up the event loop", &error);
    // One thread is enough for waiting, and starts fastest.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
    runtime.block_on(async {
        let (tell, phases) = mpsc::channel(PHASES);
        let daemon = Daemon::new(home).on_phase(move |phase| {
            // The session may have ended. A phase that is missed is followed by others.
            let _ = tell.try_send(phase);
        });
        // With SIGXFSZ caught, exceeding the file size limit fails the write instead of killing the
        // process.
        let _file_limit = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))
            .map_err(refused)?;
        let mut session = Session {
            daemon: Arc::new(daemon),
            phases,
            interrupt: match interrupt_is_ignored() {
                true => None,
                false => Some(signal(SignalKind::interrupt()).map_err(refused)?),
            },
            limit,
            spinner: Spinner::new(),
            obeys_config: false,
            verbose: false,
            plain: false,
        };
        let ended = work(&mut session).await;
        if session.obeys_config {
            session.spinner.end();
            tell_of_changes(session.home());
        }
        ended
    })
}

impl Session {
    /// The home.
    pub(crate) fn home(&self) -> &Home {
        self.daemon.home()
    }

    /// How to reach the daemon.
    pub(crate) fn daemon(&self) -> Arc<Daemon> {
        Arc::clone(&self.daemon)
    }

    /// Waits for `future`, and meanwhile handles Ctrl-C, the time limit and the spinner.
    pub(crate) async fn attend<T>(
        &mut self,
        future: impl Future<Output = T>,
    ) -> Result<T, CommandError> {
        tokio::pin!(future);
        loop {
            let late = async {
                match &self.limit {
                    Some(limit) => sleep_until(limit.deadline).await,
                    None => std::future::pending().await,
                }
            };
            // Ctrl-C first: an answer that streams without a pause must not starve it.
            tokio::select! {
                biased;
                () = interrupted(&mut self.interrupt) => return Err(CommandError::Interrupted),
                () = late => break,
                result = &mut future => {
                    while let Ok(phase) = self.phases.try_recv() {
                        self.tell(phase);
                    }
                    return Ok(result);
                }
                Some(phase) = self.phases.recv() => self.tell(phase),
                () = self.spinner.due() => self.spinner.draw(),
            }
        }
        let failure = match &self.limit {
            Some(limit) => limit.failure(),
            None => Failure::new(ErrorCode::Timeout, "timed out"),
        };
        Err(failure.into())
    }

    /// [`Session::attend`], for what may fail itself.
    pub(crate) async fn attempt<T, E>(
        &mut self,
        future: impl Future<Output = Result<T, E>>,
    ) -> Result<T, CommandError>
    where
        CommandError: From<E>,
    {
        self.attend(future).await?.map_err(CommandError::from)
    }

    fn tell(&mut self, phase: Phase) {
        if let Phase::Signaled { pid, killed } = phase {
            self.spinner.hide();
            output::say(&match killed {
                false => format!("the daemon (process {pid}) has not exited: sent SIGTERM"),
                true => format!("the daemon (process {pid}) is still running: sent SIGKILL"),
            });
        }
        self.spinner.set(phase_label(phase).to_owned());
    }

    /// Forgets a Ctrl-C that came while there was nothing to stop.
    pub(crate) async fn forget_interrupt(&mut self) {
        tokio::select! {
            biased;
            () = interrupted(&mut self.interrupt) => {}
            () = std::future::ready(()) => {}
        }
    }

    /// Sends a request; see [`Daemon::open`].
    pub(crate) async fn open(&mut self, op: Op) -> Result<Replies, CommandError> {
        let daemon = self.daemon();
        self.obeys_config |= matches!(op, Op::Run(_) | Op::Submit(_) | Op::Load(_));
        self.attempt(daemon.open(op)).await
    }

    /// Sends a request that is answered by one value, and shows progress until it arrives.
    pub(crate) async fn call<A: Ask>(&mut self, ask: A) -> Result<A::Answer, CommandError> {
        let replies = self.open(ask.into()).await?;
        self.answer::<A>(replies).await
    }

    async fn answer<A: Ask>(&mut self, mut replies: Replies) -> Result<A::Answer, CommandError> {
        loop {
            let next = self.attend(replies.next()).await?;
            match next.map_err(|failure| CommandError::about(failure, replies.job()))? {
                ReplyBody::Event(progress) => {
                    if let Some(label) = progress_label(&progress) {
                        self.spinner.set(label);
                    }
                }
                ReplyBody::Data { data } => {
                    self.spinner.hide();
                    return serde_json::from_value(data)
                        .map_err(|error| strange(&error.to_string()));
                }
                ReplyBody::Token { .. }
                | ReplyBody::End(_)
                | ReplyBody::Error(_)
                | ReplyBody::Unknown(_) => {
                    return Err(strange("text where a value was expected"));
                }
            }
        }
    }

    /// Sends a request to the daemon if one runs; `None` if none does. Starts none.
    pub(crate) async fn call_running<A: Ask>(
        &mut self,
        ask: A,
    ) -> Result<Option<A::Answer>, CommandError> {
        let daemon = self.daemon();
        match self.attempt(daemon.open_running(ask.into())).await? {
            Some(replies) => self.answer::<A>(replies).await.map(Some),
            None => Ok(None),
        }
    }
}

/// Resolves at the next Ctrl-C.
async fn interrupted(interrupt: &mut Option<Signal>) {
    match interrupt {
        Some(interrupt) => {
            interrupt.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The error for a daemon's answer that makes no sense.
pub(crate) fn strange(what: &str) -> CommandError {
    Failure::new(ErrorCode::BadFrame, format!("unexpected answer from the daemon: {what}"))
        .hint("run `threadrunner daemon restart` after an upgrade")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use threadrunner_core::ExitCode;

    #[test]
    fn what_takes_too_long_is_exit_code_4_and_says_what_becomes_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::resolve(dir.path(), |name| {
            (name == "THREADRUNNER_HOME").then(|| dir.path().as_os_str().to_owned())
        })
        .unwrap();
        let limit = Limit::from_now(Duration::from_millis(1), "it goes on");
        let error = with_session(home, Some(limit), async |session| {
            session.attend(std::future::pending::<CommandResult>()).await?
        })
        .unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Timeout);
        let CommandError::Failed { failure, .. } = error else { panic!("{error:?}") };
        assert!(failure.hint.unwrap().starts_with("it goes on"));
    }
}
