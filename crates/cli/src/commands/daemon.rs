//! `daemon`: starts, stops and watches the daemon.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process;
use std::thread;
use std::time::Duration;

use serde_json::json;
use threadrunner_core::protocol::ask;
use threadrunner_core::{ErrorCode, ExitCode, Failure};
use threadrunner_home::{
    Config, Home, Links, find_program, open_regular, resolve_backend, resolve_model, unusable,
};

use super::status;
use crate::args::{DaemonCommand, ForegroundArgs, LogsArgs, Plain, StopArgs};
use crate::error::{CommandError, CommandResult};
use crate::output;
use crate::session::{Session, with_session};

/// How often to check whether the log has grown.
const LOG_LOOK: Duration = Duration::from_millis(200);
/// How many bytes at the end of a log to read for its last lines.
const LOG_TAIL: u64 = 4 << 20;

pub(crate) fn run(command: DaemonCommand) -> CommandResult {
    match command {
        DaemonCommand::Start(args) => start(args),
        DaemonCommand::Stop(args) => stop(args),
        DaemonCommand::Restart(args) => restart(args),
        DaemonCommand::Status(args) => status::show(args, ExitCode::Connection),
        DaemonCommand::Logs(args) => logs(args),
        DaemonCommand::Run(args) => foreground(args),
    }
}

fn start(args: Plain) -> CommandResult {
    with_session(Home::from_env()?, None, async |session| {
        let daemon = session.daemon();
        let running = session.attempt(daemon.ensure_running()).await?;
        say_started(session, args.json, if running { "already runs" } else { "started" }).await
    })
}

fn stop(args: StopArgs) -> CommandResult {
    with_session(Home::from_env()?, None, async |session| {
        let stopped = end(session, args.now).await?;
        match (args.json, stopped) {
            (true, _) => output::print_json(&json!({"stopped": stopped}))?,
            (false, true) => output::say("the daemon has stopped"),
            (false, false) => output::say("the daemon was not running"),
        }
        Ok(ExitCode::Success)
    })
}

fn restart(args: StopArgs) -> CommandResult {
    with_session(Home::from_env()?, None, async |session| {
        // Report a mistake before the old daemon is stopped, so that it keeps running.
        session.daemon().check_startable().map_err(|failure| Failure {
            message: format!("not restarted: {}", failure.message),
            ..failure
        })?;
        end(session, args.now).await?;
        say_started(session, args.json, "restarted").await
    })
}

async fn end(session: &mut Session, now: bool) -> Result<bool, CommandError> {
    let daemon = session.daemon();
    session.spinner.set("stopping".to_owned());
    let stopped = session.attempt(daemon.stop(now)).await?;
    session.spinner.hide();
    Ok(stopped)
}

/// Asks the daemon for its status, which starts one if none runs, and reports how it came to run.
async fn say_started(session: &mut Session, json: bool, how: &str) -> CommandResult {
    let status = session.call(ask::Status).await?;
    session.spinner.end();
    match json {
        true => output::print_json(&status)?,
        false => output::say(&format!("the daemon {how}: process {}", status.pid)),
    }
    Ok(ExitCode::Success)
}

/// Becomes the daemon, which takes over the terminal, the signals and the exit code.
fn foreground(args: ForegroundArgs) -> CommandResult {
    let program = find_program("threadrunner-daemon", "THREADRUNNER_DAEMON")?;
    let asks = args.model.is_some() || args.workspace.is_some();
    if asks && UnixStream::connect(Home::from_env()?.socket).is_ok() {
        return Err(CommandError::usage(
            "a daemon is already running in this home, with its own model and workspace",
            "pass `-m` and `-w` to a prompt, or run `threadrunner daemon stop` first",
        ));
    }
    let mut command = process::Command::new(&program);
    command.arg("--foreground");
    if let Some(name) = args.model {
        let home = Home::from_env()?;
        let config = Config::load(&home)?;
        let backend = resolve_backend(None, &home, &config);
        if let Some(path) = resolve_model(&home, &config, backend, Some(&name))?.path {
            command.env("THREADRUNNER_MODEL_PATH", path);
        }
    }
    if let Some(workspace) = args.workspace {
        let path = std::path::absolute(&workspace)
            .map_err(|error| CommandError::usage("--workspace", error.to_string()))?;
        command.env("THREADRUNNER_WORKSPACE", path);
    }
    let error = command.exec();
    Err(Failure::new(
        ErrorCode::DaemonUnavailable,
        format!("cannot start {}: {error}", program.display()),
    )
    .hint("`threadrunner doctor` checks the installation")
    .into())
}

fn logs(args: LogsArgs) -> CommandResult {
    let home = Home::from_env()?;
    let Some(mut path) = home.newest_log() else {
        return Err(Failure::new(
            ErrorCode::FileNotFound,
            format!("there is no log in {}", home.cache_dir.display()),
        )
        .hint("the daemon writes one when it first runs")
        .into());
    };
    let mut file = open(&path)?;
    output::say(&format!("{}:", path.display()));
    let length = file.seek(SeekFrom::End(0)).map_err(|error| unreadable(&path, &error))?;
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))
        .map_err(|error| unreadable(&path, &error))?;
    output::print(last_lines(&read_on(&mut file, &path)?, args.lines))?;
    if !args.follow {
        return Ok(ExitCode::Success);
    }
    loop {
        output::print(&read_on(&mut file, &path)?)?;
        // A new file begins at midnight.
        match home.newest_log() {
            Some(newest) if newest != path => {
                file = open(&newest)?;
                path = newest;
            }
            _ => thread::sleep(LOG_LOOK),
        }
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    open_regular(path, OpenOptions::new().read(true), Links::Followed)
        .map_err(|error| unreadable(path, &error))
}

fn read_on(file: &mut File, path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    unusable("read", path, error)
}

fn last_lines(text: &str, lines: usize) -> &str {
    let mut starts: Vec<_> = std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .filter(|&at| at < text.len())
        .collect();
    starts.reverse();
    match lines {
        0 => "",
        lines => &text[starts.get(lines - 1).copied().unwrap_or(0)..],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole() {
        let text = "one\ntwo\nthree\n";
        assert_eq!(last_lines(text, 2), "two\nthree\n");
        assert_eq!(last_lines(text, 9), text);
        assert_eq!(last_lines(text, 0), "");
        assert_eq!(last_lines("one\ntwo", 1), "two");
        assert_eq!(last_lines("", 3), "");
    }
}
