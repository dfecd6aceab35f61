//! `threadrunner`: the command line.
//!
//! A prompt, or a command. What is asked for goes to standard output and nothing else does; talk
//! goes to standard error; how it ended is the exit code. Nothing is computed here: the daemon is
//! asked, and started if need be.

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
