//! Parses the arguments, runs a command, and turns its result into an exit code.

use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal, Read};

use threadrunner_core::ExitCode;

use crate::args::{self, Cli, Command, Refused};
use crate::error::{CommandError, CommandResult};
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
    let refused = match args::parse(args, complete::is_model) {
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
    if !answer.ends_with('\n') {
        // Ctrl-D leaves the cursor behind the question.
        output::say("");
    }
    match question.answered(&answer) {
        Some(meant) => args::parse(program.into_iter().chain(meant).collect(), complete::is_model),
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
