//! What all commands share.
//!
//! [`main`] parses the arguments, runs a command, and turns its result into an exit code. A
//! [`Session`] is how a command talks to the daemon, within a [`Limit`] of time. [`AskedModel`] is
//! a model as it is sent to the daemon.

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use threadrunner_client::{Daemon, Phase, Replies};
use threadrunner_core::protocol::{Ask, Op, ReplyBody};
use threadrunner_core::{BackendKind, ErrorCode, ExitCode, Failure, ModelRef};
use threadrunner_home::{
    Config, Home, interrupt_is_ignored, resolve_backend, resolve_draft, resolve_workspace_model,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::args::{self, Cli, Command, Refused};
use crate::error::{CommandError, CommandResult, refused_by_system};
use crate::spinner::{Spinner, phase_label, progress_label};
use crate::{commands, complete, output};

/// The longest answer read to a question, in bytes.
const ANSWER_BYTES: u64 = 1024;

/// Runs the command line `args`, which begins with the program's name.
pub(crate) fn main(args: Vec<OsString>) -> ExitCode {
    if let Some(code) = complete::answer(&args) {
        return code;
    }
    let json = args.iter().take_while(|&arg| arg != "--").any(|arg| arg == "--json");
    let result = match parse(args) {
        Ok(cli) => match cli.command {
            Some(command) => dispatch(command),
            None => commands::run::run(cli.run),
        },
        Err(refused) if refused.help => {
            output::print(&refused.text).map(|()| ExitCode::Success).map_err(CommandError::from)
        }
        Err(refused) if json => {
            let text = refused.text.trim_start_matches("threadrunner: ").trim_end();
            let (message, hint) = text.split_once('\n').unwrap_or((text, "see --help"));
            Err(CommandError::usage(message, hint.trim()))
        }
        Err(refused) => {
            if !refused.text.is_empty() {
                output::say(refused.text.trim_end());
            }
            Err(CommandError::Silent(ExitCode::Usage))
        }
    };
    result.unwrap_or_else(|error| {
        output::report(&error, json);
        error.exit_code()
    })
}

/// Parses the arguments. If they look mistyped, asks what was meant, provided that a person is at the
/// terminal.
fn parse(args: Vec<OsString>) -> Result<Cli, Refused> {
    let program = args.first().cloned();
    let refused = match args::parse(args) {
        Err(Refused { question: Some(question), text, help }) => (question, text, help),
        parsed => return parsed,
    };
    let (question, text, help) = refused;
    let refused = Refused { text, help, question: None };
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(refused);
    }
    output::ask(&question.to_a_person());
    let mut answer = String::new();
    // An unreadable answer counts as none.
    let _ = io::stdin().lock().take(ANSWER_BYTES).read_line(&mut answer);
    match question.answered(&answer) {
        Some(meant) => args::parse(program.into_iter().chain(meant).collect()),
        None => Err(Refused { text: String::new(), ..refused }),
    }
}

fn dispatch(command: Command) -> CommandResult {
    match command {
        Command::Run(args) => commands::run::run(args),
        Command::Batch(args) => commands::batch::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::Sessions(args) => commands::sessions::run(args),
        Command::Ps(args) => commands::ps::run(args),
        Command::Status(args) => commands::status::run(args),
        Command::Models(args) => commands::models::run(args),
        Command::Load(args) => commands::load::run(args),
        Command::Unload(args) => commands::unload::run(args),
        Command::Jobs(args) => commands::jobs::run(args),
        Command::Result(args) => commands::result::run(args),
        Command::Wait(args) => commands::wait::run(args),
        Command::Follow(args) => commands::follow::run(args),
        Command::Cancel(args) => commands::cancel::run(args),
        Command::Retry(args) => commands::retry::run(args),
        Command::Rm(args) => commands::rm::run(args),
        Command::Prune(args) => commands::prune::run(args),
        Command::Daemon(args) => commands::daemon::run(args.command),
        Command::Config(args) => commands::config::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Completions(args) => commands::completions::run(args),
    }
}

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
    phases: mpsc::UnboundedReceiver<Phase>,
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
        // Unbounded, but there are only a few phases.
        let (tell, phases) = mpsc::unbounded_channel();
        let daemon = Daemon::new(home).on_phase(move |phase| {
            // The session may have ended.
            let _ = tell.send(phase);
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
            commands::config::tell_of_changes(session.home());
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
        Ok(self.attend(daemon.open(op)).await??)
    }

    /// Sends a request that is answered by one value, and shows progress until it arrives.
    pub(crate) async fn call<A: Ask>(&mut self, ask: A) -> Result<A::Answer, CommandError> {
        let replies = self.open(ask.into()).await?;
        self.answer::<A>(replies).await
    }

    async fn answer<A: Ask>(&mut self, mut replies: Replies) -> Result<A::Answer, CommandError> {
        loop {
            match self.attend(replies.next()).await?? {
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
                | ReplyBody::Unknown {} => {
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
        match self.attend(daemon.open_running(ask.into())).await?? {
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

/// A model as it is sent to the daemon: the one that was asked for, or the caller's default.
#[derive(Debug, Clone, Default)]
pub(crate) struct AskedModel {
    pub(crate) backend: Option<BackendKind>,
    pub(crate) path: Option<String>,
    /// The draft model, if one was asked for.
    pub(crate) draft: Option<String>,
}

impl AskedModel {
    /// The model of that name, or the default if `model` is `None`; an error if there is none.
    pub(crate) fn named(
        home: &Home,
        workspace: Option<&str>,
        backend: Option<BackendKind>,
        model: Option<&str>,
    ) -> Result<Self, Failure> {
        let (backend, path) = resolve(home, workspace, backend, model)?;
        Ok(Self { backend: Some(backend), path, draft: None })
    }

    /// The same, with this draft model if one was asked for.
    pub(crate) fn drafted_by(self, home: &Home, draft: Option<&str>) -> Result<Self, Failure> {
        let draft =
            draft.map(|draft| resolve_asked_draft(home, self.backend, draft)).transpose()?;
        Ok(Self { draft, ..self })
    }

    /// The caller's default, for a conversation that has no model of its own yet. It is no error if
    /// there is none: a conversation with a model does not need it.
    pub(crate) fn usual(home: &Home, workspace: Option<&str>) -> Result<Self, Failure> {
        match Self::named(home, workspace, None, None) {
            Err(failure)
                if matches!(failure.code, ErrorCode::NoModel | ErrorCode::ModelNotFound) =>
            {
                let backend = resolve_backend(None, home, &Config::load(home)?);
                Ok(Self { backend: Some(backend), path: None, draft: None })
            }
            resolved => resolved,
        }
    }

    /// The name to show to people.
    pub(crate) fn name(&self) -> String {
        let stem = self.path.as_deref().and_then(|path| Path::new(path).file_stem());
        match (stem, self.backend) {
            (Some(stem), _) => stem.to_string_lossy().into_owned(),
            (None, Some(backend)) => backend.to_string(),
            (None, None) => "none".to_owned(),
        }
    }
}

/// The backend and the model's path, as they are sent to the daemon. They are resolved here because
/// the caller's environment counts, not the daemon's.
pub(crate) fn resolve(
    home: &Home,
    workspace: Option<&str>,
    backend: Option<BackendKind>,
    model: Option<&str>,
) -> Result<(BackendKind, Option<String>), Failure> {
    let config = Config::load(home)?;
    let backend = resolve_backend(backend, home, &config);
    let workspace = config.workspace(home, workspace)?;
    let path = resolve_workspace_model(home, &config, &workspace, backend, model)?.path;
    Ok((backend, path.map(sendable).transpose()?))
}

/// The path of the draft model of that name, as it is sent to the daemon, or `none`.
pub(crate) fn resolve_asked_draft(
    home: &Home,
    backend: Option<BackendKind>,
    name: &str,
) -> Result<String, Failure> {
    let config = Config::load(home)?;
    let backend = resolve_backend(backend, home, &config);
    let model = ModelRef { backend, path: None, draft: None };
    let draft = resolve_draft(home, &config, model, Some(name))?.draft;
    match (draft, backend) {
        (Some(path), BackendKind::Llama) => sendable(path),
        // The dummy backend has no files.
        (Some(_), BackendKind::Dummy | BackendKind::Unknown) | (None, _) => Ok(name.to_owned()),
    }
}

fn sendable(path: PathBuf) -> Result<String, Failure> {
    path.into_os_string().into_string().map_err(|path| {
        Failure::new(
            ErrorCode::ModelNotFound,
            format!("the model's path is not UTF-8: {}", path.to_string_lossy()),
        )
        .hint("rename the file, or link to it from the home's models directory")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
