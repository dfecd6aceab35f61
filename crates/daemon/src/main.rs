//! The `threadrunner-daemon` program. The first client starts it, and it serves until told to stop.
//!
//! Usage: `threadrunner-daemon [--foreground] [--socket PATH]`. Without `--foreground` it leaves
//! its terminal and session, writes one line of JSON to stdout when it is ready or has failed, and
//! closes stdout. `--socket` is for clients that speak only the simplest form of the protocol.
//!
//! The daemon owns the processes, the sockets and the time. `server` and `connection` take
//! requests, and `handlers` has a file for each operation. `jobs` has the `Owner`, the one task
//! that holds all jobs and engines; handlers reach it through its `Hub`. `store` runs a thread for
//! each workspace, and handlers change jobs that have ended through its `Archive`. `engine` is one
//! engine process, and what it may say. `models` finds models on disk. All tasks share one thread,
//! which waits for no disk: workspaces, looks at models, errands and other blocking work have
//! threads of their own.
//!
//! The daemon links no inference code, reads no model file, and trusts no engine and no client:
//! queues, frames, waits and answers are bounded.
//!
//! Unit tests are in each module. `jobs/owner/tests.rs` drives the owner with a workspace on disk
//! and engines that the test plays; `hostile.rs` below it has engines that break the rules. Tests
//! with real processes are in `tests/` at the project's root.

mod answer;
mod blocking;
mod clock;
mod connection;
mod context;
mod directories;
mod engine;
mod errands;
mod failures;
mod halves;
mod handlers;
mod hook_process;
mod hooks;
mod inherited;
mod jobs;
mod last_thread;
mod limits;
mod listen;
mod log;
mod memory;
mod model_files;
mod models;
mod opening;
mod peers;
mod pid_note;
mod reach;
mod retention;
mod room;
mod server;
mod startup;
mod states;
mod store;
mod taken;
mod tied;
mod workspaces;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: threadrunner-daemon [--foreground] [--socket PATH]";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let [first, program, directory] = arguments.as_slice()
        && first == hook_process::ARGUMENT
    {
        return hook_process::attend(program, directory);
    }
    let mut foreground = false;
    let mut socket = None;
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let inline = argument.as_bytes().strip_prefix(b"--socket=");
        match argument.to_str() {
            Some("--foreground") => foreground = true,
            Some("--version" | "-V") => {
                startup::say(concat!("threadrunner-daemon ", env!("CARGO_PKG_VERSION")));
                return ExitCode::SUCCESS;
            }
            Some("--help" | "-h") => {
                startup::say(USAGE);
                return ExitCode::SUCCESS;
            }
            Some("--socket") => match path(arguments.next()) {
                Some(path) => socket = Some(path),
                None => return refuse("--socket needs a path"),
            },
            _ => match inline.map(|path| OsStr::from_bytes(path).to_owned()) {
                Some(given) => match path(Some(given)) {
                    Some(path) => socket = Some(path),
                    None => return refuse("--socket needs a path"),
                },
                None => return refuse(&format!("unknown argument {argument:?}")),
            },
        }
    }
    startup::run(foreground, socket)
}

fn path(given: Option<OsString>) -> Option<PathBuf> {
    given.filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn refuse(why: &str) -> ExitCode {
    startup::complain(&format!("{why}; {USAGE}"));
    ExitCode::from(threadrunner_core::ExitCode::Usage as u8)
}
