//! `threadrunner`: the command line.
//!
//! Answers a prompt or runs a command. The result, and nothing else, goes to standard output; talk
//! goes to standard error; the exit code says how it ended. Nothing is computed here: commands ask
//! the daemon, which is started if none runs.
//!
//! `args` reads the arguments, and its doc comments are the help. `app` dispatches to the file in
//! `commands` that has the command's name, which opens a `Session`: a connection to the daemon that
//! also minds Ctrl-C, the time limit and the spinner. `output` writes results and talk. An early
//! end is a `CommandError`, which knows its exit code.
//!
//! The crate leaves frames and connections to `threadrunner_client`, batches to
//! `threadrunner_batch` and the choice of a model to `threadrunner_home`. It changes no job on disk,
//! and runs an engine only for its self-test (`doctor`) and, through `threadrunner_home`, to ask once
//! which backend it has. It reads a workspace's files only to answer `jobs`, `result` and `sessions`
//! while no daemon runs, and for completion.
//!
//! Unit tests are in each module. `tests/arguments.rs` runs the program without a home. Whatever
//! needs a daemon is tested in `tests/` at the project's root.

mod app;
mod args;
mod cells;
mod closed_stdout;
mod commands;
mod complete;
mod config_changes;
mod error;
mod format;
mod keys;
mod markdown;
mod output;
mod pager;
mod prompt;
mod session;
mod spinner;
mod style;
mod table;
mod terminal;
mod wrap;

use std::process;

fn main() -> process::ExitCode {
    process::ExitCode::from(app::main(std::env::args_os().collect()) as u8)
}
