//! `threadrunner`: the command line.
//!
//! Answers a prompt or runs a command. The result, and nothing else, goes to standard output; talk
//! goes to standard error; the exit code says how it ended. Nothing is computed here: commands ask
//! the daemon, which is started if none runs.

mod app;
mod args;
mod cells;
mod commands;
mod complete;
mod error;
mod format;
mod keys;
mod markdown;
mod output;
mod pager;
mod prompt;
mod spinner;
mod style;
mod table;
mod terminal;
mod wrap;

use std::process;

fn main() -> process::ExitCode {
    process::ExitCode::from(app::main(std::env::args_os().collect()) as u8)
}
