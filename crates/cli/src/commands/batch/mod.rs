//! `batch`: answers many prompts from a file into another, and can be stopped and resumed at any
//! moment. `threadrunner_batch` does the work; here are its arguments, progress and last words.

mod farewell;
mod progress;
mod words;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;

use threadrunner_batch::{Batch, BatchEvent, Input, Output, Plan};
use threadrunner_core::{ErrorCode, Failure};
use threadrunner_home::Home;
use tokio::time::Instant;

use self::words::failure;
use crate::args::BatchArgs;
use crate::error::{CommandError, CommandResult};
use crate::output;
use crate::prompt::tell_if_stdin_is_silent;
use crate::session::{Session, with_session};

pub(crate) fn run(args: BatchArgs) -> CommandResult {
    let home = Home::from_env()?;
    let from_stdin = args.file.as_os_str() == "-";
    let input = match from_stdin {
        true => stdin()?.into(),
        false => Input::open(&args.file).map_err(failure)?,
    };
    let out = (args.output.as_os_str() != "-").then(|| args.output.clone());
    let output = match &out {
        Some(path) => Output::file(&home, path, &input, args.retry_failed).map_err(failure)?,
        None if args.retry_failed => {
            let hint = "name a file with -o; what went to standard output cannot be read again";
            return Err(CommandError::usage("--retry-failed needs a file of answers", hint));
        }
        None => Output::events(),
    };
    // Counting reads the whole input, which only a visible progress bar needs.
    let watched = io::stderr().is_terminal();
    let total = watched.then(|| Input::count(&args.file)).flatten();
    let at_once = args.concurrency;
    let defaults = args.into_defaults()?;
    if from_stdin {
        tell_if_stdin_is_silent();
    }
    with_session(home, None, async move |session| {
        let plan = Plan { input, output, defaults, at_once, total };
        let mut batch = Batch::begin(session.daemon(), plan).map_err(failure)?;
        session.obeys_config = true;
        match answer(session, &mut batch).await {
            Ok(()) => farewell::finish(session, batch, out.as_deref()).await,
            Err(error) => {
                session.spinner.end();
                farewell::leave(session, batch, out.as_deref(), &error).await;
                Err(error)
            }
        }
    })
}

/// Tells and shows what happens until every line is answered.
async fn answer(session: &mut Session, batch: &mut Batch) -> Result<(), CommandError> {
    loop {
        session.spinner.set(progress::label(batch.counts(), Instant::now()));
        let Some(event) = session.attend(batch.next()).await?.map_err(failure)? else {
            return Ok(());
        };
        match event {
            BatchEvent::Counted => {}
            BatchEvent::Failed { line, failure } => {
                session.spinner.hide();
                output::say(&format!("line {line}: {failure}"));
            }
            BatchEvent::NoEffect { line, key } => {
                session.spinner.hide();
                output::say(&format!(
                    "line {line}: the key {key:?} has no effect, here and in other lines"
                ));
            }
            BatchEvent::Line(line) => {
                session.spinner.hide();
                let text = String::from_utf8_lossy(&line);
                session.attempt(output::print_patiently(&text)).await?;
            }
        }
    }
}

/// Standard input, as a file of its own.
fn stdin() -> Result<File, Failure> {
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let failed =
        |error| Failure::new(ErrorCode::Io, format!("cannot read standard input: {error}"));
    Ok(stdin.map_err(failed)?.into())
}

/// The path of the output as the user gave it, for messages.
fn name(out: Option<&Path>) -> Option<String> {
    out.map(|path| path.display().to_string())
}
