//! `sessions`: lists, shows, exports and removes conversations, and undoes turns.

use std::path::Path;
use std::time::SystemTime;

use threadrunner_core::protocol::{
    Conversation, RmSessionQuery, SessionList, SessionQuery, SessionRecord, SessionsQuery,
    UndoneTurn, ask,
};
use threadrunner_core::{ErrorCode, ExitCode, Failure, SessionName, WorkspaceName};
use threadrunner_home::{Home, unusable};

use super::files::Files;
use super::rm::check_all_removed;
use super::transcript;
use crate::args::{
    ExportArgs, ListArgs, RmArgs, SessionArgs, SessionsArgs, SessionsCommand, ShowArgs, UndoArgs,
};
use crate::error::{CommandError, CommandResult};
use crate::session::{Session, with_session};
use crate::table::Table;
use crate::{format, output, pager};

pub(crate) fn run(args: SessionsArgs) -> CommandResult {
    let command = args.command.unwrap_or(SessionsCommand::List(args.list));
    with_session(Home::from_env()?, None, async |session| match command {
        SessionsCommand::List(args) => list(session, args).await,
        SessionsCommand::Show(args) => show(session, args).await,
        SessionsCommand::Undo(args) => undo(session, args).await,
        SessionsCommand::Rm(args) => rm(session, args).await,
        SessionsCommand::Export(args) => export(session, args).await,
    })
}

/// Returns the session that the options name, if any.
pub(super) async fn choose(
    session: &mut Session,
    args: &SessionArgs,
    workspace: Option<&WorkspaceName>,
) -> Result<Option<SessionName>, CommandError> {
    let default = WorkspaceName::default();
    let workspace = workspace.unwrap_or(&default);
    match (&args.session, args.continues) {
        (name, false) => Ok(name.clone()),
        (Some(name), true) => {
            let query = SessionQuery { session: name.clone(), workspace: Some(workspace.clone()) };
            session.call(ask::Session(query)).await?;
            Ok(Some(name.clone()))
        }
        (None, true) => {
            let query = SessionsQuery { limit: Some(1), workspace: Some(workspace.clone()) };
            let list = session.call(ask::Sessions(query)).await?;
            match list.sessions.into_iter().next() {
                Some(last) => Ok(Some(last.session)),
                None => Err(Failure::new(
                    ErrorCode::SessionNotFound,
                    format!("there is no session to continue in the workspace '{workspace}'"),
                )
                .hint("start one with `--session NAME`, or with `threadrunner chat`")
                .into()),
            }
        }
    }
}

async fn list(session: &mut Session, args: ListArgs) -> CommandResult {
    let query = SessionsQuery { limit: args.limit, workspace: args.within.workspace };
    let list: SessionList = match Files::alone(session, query.workspace.as_ref()).await? {
        Some(files) => files.sessions(&query)?,
        None => session.call(ask::Sessions(query)).await?,
    };
    if args.json {
        output::print_json(&list)?;
        return Ok(ExitCode::Success);
    }
    if list.sessions.is_empty() {
        output::say("no sessions");
        return Ok(ExitCode::Success);
    }
    output::print(&table(&list.sessions, SystemTime::now()).to_text(output::width()))?;
    if list.more {
        output::say("there are more; `--limit` sets how many to list");
    }
    Ok(ExitCode::Success)
}

fn table(sessions: &[SessionRecord], now: SystemTime) -> Table<6> {
    let mut table = Table::new(["SESSION", "WORKSPACE", "TURNS", "AGE", "MODEL", "PROMPT"]);
    for session in sessions {
        let dash = || "-".to_owned();
        let age = session.updated_at.as_ref().and_then(|time| format::age(time, now));
        let error = session.error.as_ref().map(|failure| failure.message.clone());
        let trouble = error.or_else(|| {
            let missing = session.missing.as_ref()?;
            Some(format!("[job {missing} is gone]"))
        });
        table.row([
            session.session.to_string(),
            session.workspace.to_string(),
            match session.pending.len() {
                0 => session.turns.to_string(),
                open => format!("{}+{open}", session.turns),
            },
            age.unwrap_or_else(dash),
            session.model.as_deref().map_or_else(dash, format::one_line),
            trouble.map_or_else(
                || format::prompt_start(&session.prompt_start),
                |it| format::one_line(&it),
            ),
        ]);
    }
    table
}

/// Reads a conversation, from the files if no daemon runs.
async fn read(session: &mut Session, query: SessionQuery) -> Result<Conversation, CommandError> {
    let files = Files::alone(session, query.workspace.as_ref()).await?;
    match files.and_then(|files| files.session(&query)) {
        Some(conversation) => Ok(conversation),
        None => session.call(ask::Session(query)).await,
    }
}

async fn show(session: &mut Session, args: ShowArgs) -> CommandResult {
    let query = SessionQuery { session: args.session, workspace: args.within.workspace };
    let conversation = read(session, query).await?;
    if args.json {
        output::print_json(&conversation)?;
        return Ok(ExitCode::Success);
    }
    tell_what_is_missing(&conversation.record);
    let text = transcript::shown(&conversation, args.plain);
    session.spinner.end();
    session.attempt(pager::show(&text)).await?;
    if !conversation.record.pending.is_empty() {
        let ids: Vec<_> = conversation.record.pending.iter().map(ToString::to_string).collect();
        output::say(&format!("not answered yet: {}", ids.join(" ")));
    }
    Ok(ExitCode::Success)
}

fn tell_what_is_missing(record: &SessionRecord) {
    if let Some(missing) = &record.missing {
        output::say(&format!(
            "threadrunner: job {missing}, a turn of session '{}', is gone, and with it everything \
             said before",
            record.session
        ));
    }
}

async fn undo(session: &mut Session, args: UndoArgs) -> CommandResult {
    let query = SessionQuery { session: args.session, workspace: args.within.workspace };
    let undone = session.call(ask::UndoSession(query)).await?;
    if args.json {
        output::print_json(&undone)?;
    } else {
        output::print(&format!("{}\n", undone.job))?;
        output::say(&left(&undone));
    }
    Ok(ExitCode::Success)
}

/// Formats how many turns are left after an undo.
pub(super) fn left(undone: &UndoneTurn) -> String {
    let session = &undone.session;
    match undone.turns {
        0 => format!("nothing is left of session '{session}'"),
        1 => format!("session '{session}' has 1 turn now"),
        turns => format!("session '{session}' has {turns} turns now"),
    }
}

async fn rm(session: &mut Session, args: RmArgs) -> CommandResult {
    let mut code = ExitCode::Success;
    let alone = args.sessions.len() == 1;
    for name in args.sessions {
        let query = SessionQuery { session: name, workspace: args.within.workspace.clone() };
        let ask = ask::RmSession(RmSessionQuery { query, jobs: args.jobs });
        match session.call(ask).await {
            Ok(removed) => {
                match args.json {
                    true => output::print_json(&removed)?,
                    false => output::print(&format!("{}\n", removed.session))?,
                }
                if let Err(error) = check_all_removed(&removed.failed, args.json) {
                    code = error.exit_code();
                    output::report(&error, args.json);
                }
            }
            // As with jobs, the failure of one does not stop the others.
            Err(CommandError::Failed { failure, job })
                if !alone
                    && matches!(
                        failure.code,
                        ErrorCode::SessionNotFound | ErrorCode::WrongState | ErrorCode::AmbiguousId
                    ) =>
            {
                if code == ExitCode::Success {
                    code = failure.code.exit_code();
                }
                output::report(&CommandError::Failed { failure, job }, args.json);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(code)
}

async fn export(session: &mut Session, args: ExportArgs) -> CommandResult {
    let query = SessionQuery { session: args.session, workspace: args.within.workspace };
    let conversation = read(session, query).await?;
    tell_what_is_missing(&conversation.record);
    let text = transcript::exported(&conversation, args.format);
    match &args.output {
        Some(path) => save(path, &text)?,
        None => session.attempt(output::print_patiently(&text)).await?,
    }
    Ok(ExitCode::Success)
}

/// Writes a new file that only its owner can read. Never overwrites a file.
pub(super) fn save(path: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| unusable("write", path, &error))?;
    file.write_all(text.as_bytes()).map_err(|error| {
        // A partial file is of no use, and would block the next try.
        let _ = std::fs::remove_file(path);
        unusable("write", path, &error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use threadrunner_core::JobId;

    #[test]
    fn a_session_whose_job_is_gone_says_so_in_the_list() {
        let record = SessionRecord {
            session: SessionName::parse("work").unwrap(),
            workspace: WorkspaceName::default(),
            head: None,
            pending: vec![JobId::parse("2").unwrap()],
            turns: 3,
            updated_at: None,
            model: None,
            system: None,
            prompt_start: "Hello".to_owned(),
            missing: Some(JobId::parse("1").unwrap()),
            error: None,
        };
        let text = table(&[record], SystemTime::UNIX_EPOCH).to_text(None);
        assert_eq!(
            text.lines().nth(1).unwrap(),
            "work     default    3+1    -    -      [job 1 is gone]"
        );
    }

    #[test]
    fn a_file_that_is_there_is_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.md");
        save(&path, "first").unwrap();
        assert!(save(&path, "second").unwrap_err().message.contains("a.md"));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "first");
    }
}
