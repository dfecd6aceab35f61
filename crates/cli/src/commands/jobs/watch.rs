//! `jobs --watch`: shows the list of jobs as it changes.

use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime};

use threadrunner_client::{Replies, is_loss};
use threadrunner_core::protocol::{JobList, JobRecord, JobsQuery, Progress, ReplyBody, ask};
use threadrunner_core::{ErrorCode, ExitCode, JobId, JobStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::{state, table};
use crate::commands::wait::watch;
use crate::error::{CommandError, CommandResult, refused_by_system};
use crate::keys::Keys;
use crate::session::{Session, strange};
use crate::terminal::escapes;
use crate::{format, output};

/// The shortest time between two redraws of the list, however fast jobs change.
const AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// The longest time between two redraws, which keeps the ages current.
const AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// How long to wait for another daemon after one went away.
const PAUSE: Duration = Duration::from_millis(500);

/// Shows the list until the user quits.
pub(super) async fn run(session: &mut Session, query: JobsQuery, json: bool) -> CommandResult {
    let drawn = !json && io::stdout().is_terminal() && escapes();
    let mut keys = if drawn { Keys::listen() } else { None };
    let quit = async {
        match &mut keys {
            Some(keys) => keys.quit().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = show(session, &query, drawn, json) => ended,
        () = quit => Ok(ExitCode::Success),
    }
}

async fn show(session: &mut Session, query: &JobsQuery, drawn: bool, json: bool) -> CommandResult {
    let mut screen = Screen::default();
    let mut listed = false;
    loop {
        let ended = match drawn {
            true => on_a_terminal(session, query, &mut screen).await,
            false => line_by_line(session, query, json, &mut listed).await,
        };
        match ended {
            Err(CommandError::Failed { failure, .. }) if is_loss(&failure) => {
                session.attend(tokio::time::sleep(PAUSE)).await?;
            }
            Err(error) => return Err(error),
            Ok(never) => match never {},
        }
    }
}

/// A list that is drawn in place.
#[derive(Debug, Default)]
struct Screen {
    /// The columns and rows that it was drawn for.
    size: (usize, usize),
    /// How many of its lines are on the screen.
    shown: usize,
}

impl Screen {
    /// Draws over what was drawn before.
    fn draw(&mut self, text: &str, size: (usize, usize)) -> io::Result<()> {
        // Lines that scroll off the screen could not be drawn over.
        let lines: Vec<_> = text.lines().take(size.1.saturating_sub(1)).collect();
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let back = match self.shown {
            0 => String::new(),
            // The terminal has rewrapped the lines, into an unknown number.
            _ if self.size != size => "\x1b[2J\x1b[H".to_owned(),
            shown => format!("\x1b[{shown}A\r\x1b[J"),
        };
        *self = Self { size, shown: lines.len() };
        output::print(&format!("{back}{text}"))
    }
}

/// Draws the list in place.
async fn on_a_terminal(
    session: &mut Session,
    query: &JobsQuery,
    screen: &mut Screen,
) -> Result<std::convert::Infallible, CommandError> {
    let (mut changes, _) = watch(session, query.workspace.as_ref()).await?;
    let mut resized = signal(SignalKind::window_change())
        .map_err(|error| refused_by_system("watch the terminal's size", &error))?;
    loop {
        let size = output::size().unwrap_or((80, 24));
        // Two lines are for the headings and the cursor.
        let room = u32::try_from(size.1.saturating_sub(2)).unwrap_or(u32::MAX);
        let limit = query.limit.map_or(room, |limit| limit.min(room));
        let list: JobList =
            session.call(ask::Jobs(JobsQuery { limit: Some(limit), ..query.clone() })).await?;
        let earliest = Instant::now() + AT_MOST_EVERY;
        loop {
            let columns = Some(size.0);
            screen.draw(&table(&list.jobs, SystemTime::now(), columns).to_text(columns), size)?;
            let older = Instant::now() + AT_LEAST_EVERY;
            let changed = async {
                tokio::select! {
                    change = changes.next() => change.map(|_| true),
                    _ = resized.recv() => Ok(true),
                    () = sleep_until(older) => Ok(false),
                }
            };
            if session.attempt(changed).await? {
                break;
            }
        }
        // The next list includes whatever else changes until then.
        let others = async {
            loop {
                tokio::select! {
                    change = changes.next() => match change {
                        Ok(_) => {}
                        Err(failure) => return Err(failure),
                    },
                    () = sleep_until(earliest) => return Ok(()),
                }
            }
        };
        session.attempt(others).await?;
    }
}

/// Prints the list, then a line for each change.
async fn line_by_line(
    session: &mut Session,
    wanted: &JobsQuery,
    json: bool,
    listed: &mut bool,
) -> Result<std::convert::Infallible, CommandError> {
    let (mut changes, _) = watch(session, wanted.workspace.as_ref()).await?;
    if !*listed {
        let list = session.call(ask::Jobs(wanted.clone())).await?;
        // Oldest first, because later changes are printed below.
        for record in list.jobs.iter().rev() {
            print(record, json)?;
        }
        *listed = true;
    }
    loop {
        match next(session, &mut changes).await? {
            Some((job, Some(state))) => {
                let record = match session.call(ask::Job((&job).into())).await {
                    Ok(record) => record,
                    Err(CommandError::Failed { failure, .. })
                        if failure.code == ErrorCode::JobNotFound =>
                    {
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                // If the job has moved on, its next change reports it.
                if record.state == state && wanted.fits(&record, SystemTime::now()) {
                    print(&record, json)?;
                }
            }
            // A removed job has no tag or model to compare.
            Some((job, None)) if wanted.tag.is_none() && wanted.model.is_none() => match json {
                true => output::print_json(&serde_json::json!({"job": job, "state": null}))?,
                false => output::print(&format!("{job}  removed\n"))?,
            },
            Some((_, None)) => {}
            None => output::say("threadrunner: some changes came too fast to be shown"),
        }
    }
}

async fn next(
    session: &mut Session,
    changes: &mut Replies,
) -> Result<Option<(JobId, Option<JobStatus>)>, CommandError> {
    match session.attempt(changes.next()).await? {
        ReplyBody::Event(Progress::Changed { job, state, .. }) => Ok(Some((job, state))),
        ReplyBody::Event(Progress::Missed { .. }) => Ok(None),
        _ => Err(strange("it stopped watching")),
    }
}

fn print(record: &JobRecord, json: bool) -> io::Result<()> {
    if json {
        return output::print_json(record);
    }
    let prompt = format::prompt_start(&record.prompt_start);
    output::print(&format!("{}  {}  {prompt}\n", record.job, state(record)))
}
