//! `chat`: a conversation at the terminal or through a pipe.

mod input;
mod line;
mod typed;

use std::path::Path;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::Offset;
use threadrunner_core::protocol::{Conversation, Op, SessionQuery, Submission, ask};
use threadrunner_core::{
    ErrorCode, ExitCode, Failure, JobId, Parameters, SessionName, WorkspaceName,
};
use threadrunner_home::{AskedModel, Home};

use super::answer::{Expected, most_tokens, show_answer, tell_void};
use super::sessions::{choose, left, save};
use super::transcript;
use crate::args::{ChatArgs, ExportFormat};
use crate::error::{CommandError, CommandResult};
use crate::output;
use crate::prompt::{tell_if_stdin_is_silent, without_bom};
use crate::session::{Session, with_session};
use crate::spinner::Spinner;
use input::{Input, Read};
use line::Line;
use typed::Typed;

pub(crate) fn run(mut args: ChatArgs) -> CommandResult {
    let home = Home::from_env()?;
    args.workspace = args.workspace.or_else(|| home.asked_workspace());
    let params = args.sampling.clone().into_checked_parameters()?;
    home.create()?;
    with_session(home, None, async |session| {
        (session.verbose, session.plain) = (args.verbose, args.plain);
        let chosen = choose(session, &args.within, args.workspace.as_ref()).await?;
        let chat = Chat::begin(session, args, chosen, params).await?;
        let mut input = Input::start(session.home().cache_dir.join("chat_history"))?;
        match input.is_terminal() {
            true => chat.greet(),
            false => tell_if_stdin_is_silent(),
        }
        chat.talk(session, &mut input).await
    })
}

/// A running conversation.
struct Chat {
    name: SessionName,
    workspace: WorkspaceName,
    /// The model for a session that has none of its own.
    usual: AskedModel,
    /// The model chosen with `-m`, `--backend` or `/model`.
    model: Option<AskedModel>,
    /// Instructions that the session does not have yet.
    system: Option<String>,
    params: Parameters,
    last: Option<Asked>,
    turns: usize,
}

/// The last question.
#[derive(Debug, Clone)]
struct Asked {
    prompt: String,
    /// Its turn; `None` if it was not answered.
    turn: Option<JobId>,
}

impl Chat {
    async fn begin(
        session: &mut Session,
        args: ChatArgs,
        chosen: Option<SessionName>,
        params: Parameters,
    ) -> Result<Self, CommandError> {
        let named = chosen.is_some();
        let name = match chosen {
            Some(name) => name,
            None => new_name(SystemTime::now(), std::process::id())?,
        };
        let workspace = args.workspace.unwrap_or_default();
        let model = match args.model.is_some() || args.backend.is_some() {
            true => {
                let (home, model) = (session.home(), args.model.as_deref());
                let named = AskedModel::named(home, Some(&workspace), args.backend, model)?;
                Some(named.drafted_by(home, args.draft.as_deref())?)
            }
            false => None,
        };
        let usual = AskedModel::usual(session.home(), Some(&workspace))?
            .drafted_by(session.home(), args.draft.as_deref())?;
        let system = args.system.map(without_bom);
        let mut chat = Self { name, workspace, usual, model, system, params, last: None, turns: 0 };
        if named && let Some(conversation) = chat.look(session).await? {
            chat.turns = conversation.conversation.len();
            chat.last = last_of(&conversation);
        }
        Ok(chat)
    }

    fn greet(&self) {
        let turns = match self.turns {
            0 => "new".to_owned(),
            1 => "1 turn so far".to_owned(),
            turns => format!("{turns} turns so far"),
        };
        output::say(&format!(
            "session {}, {turns}; /help lists the commands, Ctrl-D leaves",
            self.name
        ));
    }

    async fn talk(mut self, session: &mut Session, input: &mut Input) -> CommandResult {
        loop {
            let read = match input.is_terminal() {
                // The editor handles Ctrl-C itself.
                true => input.next().await,
                false => session.attend(input.next()).await?,
            };
            let line = match read {
                Read::Line(line) => line::read(&line),
                Read::Interrupted => {
                    output::say("press Ctrl-D or type /quit to leave");
                    continue;
                }
                Read::End => return Ok(ExitCode::Success),
                Read::Failed(failure) => return Err(failure.into()),
            };
            if line == Line::Quit {
                return Ok(ExitCode::Success);
            }
            session.forget_interrupt().await;
            let typed = input.is_terminal().then(Typed::begin);
            let obeyed = self.obey(session, line).await;
            if let Some(typed) = typed {
                input.queue(typed.finish());
            }
            match obeyed {
                Ok(()) => {}
                Err(error @ CommandError::ReaderGone) => return Err(error),
                // A script must not continue as if it had been answered.
                Err(error) if !input.is_terminal() => return Err(error),
                Err(error) => output::report(&error, false),
            }
        }
    }

    async fn obey(&mut self, session: &mut Session, line: Line) -> Result<(), CommandError> {
        match line {
            Line::Empty | Line::Quit => Ok(()),
            Line::Prompt(prompt) => self.ask(session, Asked { prompt, turn: None }).await,
            Line::Retry => match self.last.clone() {
                Some(asked) => self.ask(session, asked).await,
                None => Err(CommandError::usage("there is no question yet", "ask something first")),
            },
            Line::Undo => self.undo(session).await,
            Line::ShowModel => {
                let model = match &self.model {
                    Some(model) => model.name(),
                    None => match self.look(session).await?.and_then(|said| said.record.model) {
                        Some(model) => model,
                        None => self.usual.name(),
                    },
                };
                output::say(&model);
                Ok(())
            }
            Line::Model(name) => {
                let (home, workspace) = (session.home(), Some(&self.workspace));
                self.model = Some(AskedModel::named(home, workspace, None, Some(&name))?);
                Ok(())
            }
            Line::ShowSystem => {
                let system = match &self.system {
                    Some(system) => Some(system.clone()),
                    None => self.look(session).await?.and_then(|said| said.record.system),
                };
                output::say(system.as_deref().unwrap_or("no instructions are set"));
                Ok(())
            }
            Line::System(text) => {
                self.system = Some(text);
                Ok(())
            }
            Line::Show => {
                let said = self.said(session).await?;
                let text = transcript::shown(&said, session.plain);
                session.attempt(output::print_patiently(&text)).await
            }
            Line::Save(path) => {
                let said = self.said(session).await?;
                save(&path, &transcript::exported(&said, format_of(&path)))?;
                output::say(&format!("written: {}", path.display()));
                Ok(())
            }
            Line::Help => {
                output::say(line::HELP);
                Ok(())
            }
            Line::Mistake(why) => Err(CommandError::usage(why, "/help lists the commands")),
        }
    }

    /// Asks a question. If it has a turn, the new answer replaces that.
    async fn ask(&mut self, session: &mut Session, asked: Asked) -> Result<(), CommandError> {
        let (prompt, replaces) = (asked.prompt, asked.turn);
        let model = self.model.clone();
        let usual = model.is_none();
        let AskedModel { backend, path, draft } = model.unwrap_or_else(|| self.usual.clone());
        let submission = Submission {
            prompt: prompt.clone(),
            system: self.system.clone(),
            stream: Some(true),
            backend: Some(backend),
            model: path,
            draft,
            usual_model: usual,
            params: self.params.clone(),
            workspace: Some(self.workspace.clone()),
            session: Some(self.name.clone()),
            replaces: replaces.clone(),
            ..Submission::default()
        };
        let asked = self.params.max_tokens;
        let most = most_tokens(session.home(), Some(&self.workspace), asked)?;
        session.spinner = Spinner::new();
        let answered = async {
            let replies = session.open(Op::Run(Box::new(submission))).await?;
            let expected = Expected {
                session: Some(&self.name),
                undo: Some("/undo takes this turn back".to_owned()),
                most_tokens: most,
                bounded: asked.is_some(),
                ..Expected::default()
            };
            show_answer(session, replies, expected).await
        };
        let error = match answered.await {
            Ok(turn) => {
                // The session has the instructions now.
                self.system = None;
                self.last = Some(Asked { prompt, turn: Some(turn) });
                return Ok(());
            }
            Err(error) => error,
        };
        session.spinner.end();
        tell_void(&error, &self.name);
        if replaces.is_none() {
            self.last = Some(Asked { prompt, turn: None });
        }
        Err(error)
    }

    /// Takes back the last turn.
    async fn undo(&mut self, session: &mut Session) -> Result<(), CommandError> {
        let (name, workspace) = (self.name.clone(), Some(self.workspace.clone()));
        let query = SessionQuery { session: name, workspace };
        let undone = session.call(ask::UndoSession(query)).await?;
        let conversation = match undone.turns {
            0 => None,
            _ => self.look(session).await?,
        };
        self.last = conversation.and_then(|said| last_of(&said));
        output::say(&left(&undone));
        Ok(())
    }

    async fn look(&self, session: &mut Session) -> Result<Option<Conversation>, CommandError> {
        let (name, workspace) = (self.name.clone(), Some(self.workspace.clone()));
        let ask = ask::Session(SessionQuery { session: name, workspace });
        match session.call(ask).await {
            Ok(conversation) => Ok(Some(conversation)),
            Err(CommandError::Failed { failure, .. })
                if matches!(
                    failure.code,
                    // The latter if the workspace does not exist yet.
                    ErrorCode::SessionNotFound | ErrorCode::JobNotFound
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn said(&self, session: &mut Session) -> Result<Conversation, CommandError> {
        let nothing = || CommandError::usage("nothing has been said yet", "ask something first");
        self.look(session).await?.ok_or_else(nothing)
    }
}

/// The last question of a conversation.
fn last_of(said: &Conversation) -> Option<Asked> {
    let turn = said.conversation.last()?;
    Some(Asked { prompt: turn.prompt.clone(), turn: Some(turn.job.clone()) })
}

fn format_of(path: &Path) -> ExportFormat {
    match path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        true => ExportFormat::Json,
        false => ExportFormat::Markdown,
    }
}

/// Makes a name that no other chat has, with the pid because two may begin in the same second.
fn new_name(now: SystemTime, pid: u32) -> Result<SessionName, Failure> {
    let now = Offset::UTC.to_datetime(Timestamp::try_from(now).unwrap_or_default());
    let (hour, minute, second) = (now.hour(), now.minute(), now.second());
    let name = format!("chat-{}-{hour:02}{minute:02}{second:02}-{pid}", now.date());
    SessionName::parse(&name).map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_chat_without_a_name_is_called_by_its_time() {
        let now = UNIX_EPOCH + Duration::from_secs(1_767_225_600 + 3 * 3600 + 4 * 60 + 5);
        assert_eq!(new_name(now, 77).unwrap().as_str(), "chat-2026-01-01-030405-77");
    }

    #[test]
    fn a_file_is_markdown_unless_its_name_says_json() {
        assert_eq!(format_of(Path::new("a.md")), ExportFormat::Markdown);
        assert_eq!(format_of(Path::new("a.JSON")), ExportFormat::Json);
        assert_eq!(format_of(Path::new("json")), ExportFormat::Markdown);
    }
}
