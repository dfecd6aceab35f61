//! `threadrunner-daemon`: started by the first client, it serves until it is told to stop.
//!
//! Usage: `threadrunner-daemon [--foreground]`. Without the flag it leaves its terminal and
//! session. It writes one line of JSON to stdout when it is ready or cannot be, and closes it.

mod connection;
mod context;
mod directories;
mod engine;
mod fnv;
mod handlers;
mod hooks;
mod jobs;
mod log;
mod memory;
mod pid_note;
mod retention;
mod server;
mod startup;
mod states;
mod store;
mod stream;
mod workspaces;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut foreground = false;
    for argument in std::env::args_os().skip(1) {
        match argument.to_str() {
            Some("--foreground") => foreground = true,
            Some("--version" | "-V") => {
                startup::say(concat!("threadrunner-daemon ", env!("CARGO_PKG_VERSION")));
                return ExitCode::SUCCESS;
            }
            _ => {
                startup::complain(&format!(
                    "unknown argument {argument:?}; usage: threadrunner-daemon [--foreground]"
                ));
                return ExitCode::from(threadrunner_core::ExitCode::Usage as u8);
            }
        }
    }
    startup::run(foreground)
}
