//! `batch`: answers many prompts from a file into another, and can be stopped and resumed at any
//! moment.
//!
//! The [`Runner`] takes lines from the [`Input`], completes them with [`Defaults`], keeps as many
//! jobs under way as the [`Window`] allows, and writes each answer to the [`Sink`].
//!
//! Each line has exactly one line in the output, whatever is killed when:
//!
//! - The output says what is done. It is read at the start ([`Seen`]), and a line that was cut
//!   short is dropped.
//! - Jobs are detached, and the [`Ledger`] names those under way, so that the next run follows them
//!   instead of submitting them again.
//! - The batch chooses the ids of its jobs and records them before it submits. If the daemon or the
//!   batch dies in between, the same job is submitted again, and an id names only one job.

mod answer;
mod defaults;
mod farewell;
mod input;
mod job;
mod keys;
mod label;
mod ledger;
mod line;
mod openai;
mod out;
mod progress;
mod runner;
mod seen;
mod sink;
mod window;

use std::io::IsTerminal;

use threadrunner_home::Home;

use self::defaults::Defaults;
use self::input::Input;
use self::ledger::Ledger;
use self::out::{Before, OutFile};
use self::progress::Counts;
use self::runner::Runner;
use self::seen::Seen;
use self::sink::Sink;
use self::window::Window;
use crate::args::BatchArgs;
use crate::error::{CommandError, CommandResult, refused_by_system};
use crate::prompt::tell_if_stdin_is_silent;
use crate::session::with_session;

pub(crate) fn run(args: BatchArgs) -> CommandResult {
    let home = Home::from_env()?;
    let input = Input::open(&args.file)?;
    let from_stdin = args.file.as_os_str() == "-";
    let mut seen = Seen::default();
    let (sink, before, ledger, under_way) = if args.output.as_os_str() == "-" {
        if args.retry_failed {
            let hint = "name a file with -o; what went to standard output cannot be read again";
            return Err(CommandError::usage("--retry-failed needs a file of answers", hint));
        }
        (Sink::Stdout, Before::default(), Ledger::none(), Vec::new())
    } else {
        let (out, before) =
            OutFile::open(&args.output, input.file(), args.retry_failed, &mut seen)?;
        let (ledger, under_way) = Ledger::open(&home, &out.absolute(), !before.existed)?;
        (Sink::File(out), before, ledger, under_way)
    };
    // Counting reads the whole input, which only a visible progress bar needs.
    let watched = std::io::stderr().is_terminal();
    let total = watched.then(|| Input::count(&args.file)).flatten();
    let window = Window::new(args.concurrency);
    let defaults = Defaults::new(home.clone(), args, ledger.batch().to_owned())?;
    if from_stdin {
        tell_if_stdin_is_silent();
    }
    let lines = input.start().map_err(|error| refused_by_system("start a thread", &error))?;
    with_session(home, None, async move |session| {
        session.obeys_config = true;
        let counts = Counts::new(before, total, tokio::time::Instant::now());
        let runner = Runner::new(session, defaults, sink, ledger, seen, counts, window);
        runner.resume(under_way).run(session, lines).await
    })
}
