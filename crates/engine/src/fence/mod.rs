//! What the engine gives up before it opens a model file.
//!
//! A model file is somebody else's input to a parser in C++. So before the first byte of it is read
//! the process drops what answering needs no more: it may read the files of the model and of its draft model and no others,
//! write none but those in the directory that it was given for the states of sessions, open no socket, start no program and no process, and make no memory executable.
//! Nor date a file, signal another process, or write more than it was given room for.
//! Nothing of this can be taken back. Where the kernel lacks a part of it the rest still holds, and
//! [`enter`] says what is missing.
//!
//! Two mechanisms of Linux do it, and one would be enough for most: Landlock decides by files and
//! ports ([`files`]), seccomp by system calls ([`calls`]). A GPU's driver opens devices, libraries
//! and caches of its own and starts helpers: an engine for a GPU is not fenced, and says so.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod files;
mod probe;

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use threadrunner_core::engine_protocol::StateDirectory;

use crate::machine;

pub(crate) use probe::probe;

/// Files and pipes open at once: the parts of a model, and a few more.
const MOST_FILES: u64 = 512;
/// Private memory that a process needs beside what a model takes: code and data, a prompt's texts,
/// states on their way to the disk.
const OWN_MEMORY: u64 = 1 << 30;
/// The same for each thread: its stack.
const THREAD_MEMORY: u64 = 16 << 20;

/// Fences the process in: it reads `models` and their other parts, and no other file but those of
/// `state`, which it may write, too; and it is meant to need no more than `memory` bytes. Call it
/// before there is a second thread, for Landlock holds for a thread and for those that it starts.
/// What is missing comes back, each part with the reason; nothing where everything holds.
pub(crate) fn enter(
    models: &[&Path],
    state: Option<&StateDirectory>,
    memory: Option<u64>,
) -> Vec<String> {
    // What is asked of the system from now on is what was remembered.
    let machine = machine::facts();
    ask_for_the_time_zone();
    let mut missing = Vec::new();
    let mut note = |part: &str, result: Result<(), String>| {
        if let Err(reason) = result {
            missing.push(format!("{part}: {reason}"));
        }
    };
    note("files", limit(Resource::Nofile, MOST_FILES));
    if drives_a_gpu() {
        note("fence", Err("a GPU's driver needs devices, files and processes of its own".into()));
        return missing;
    }
    let most = memory.map(most_memory).into_iter().chain(machine.memory).min();
    if let Some(bytes) = most {
        note("memory", limit(Resource::Data, bytes));
    }
    // Each file; how much they have together the daemon looks at.
    note("file size", limit(Resource::Fsize, state.map_or(0, |state| state.max_bytes)));
    ignore_full_files();
    note("capabilities", drop_capabilities());
    let state = state.map(|state| state.path.as_path());
    note("files and network", confine_files(models, state));
    note("system calls", confine_calls(state.is_some()));
    missing
}

#[cfg(target_os = "linux")]
fn confine_files(models: &[&Path], state: Option<&Path>) -> Result<(), String> {
    files::confine(models, state)
}

#[cfg(target_os = "linux")]
fn confine_calls(writes: bool) -> Result<(), String> {
    calls::confine(writes)
}

#[cfg(not(target_os = "linux"))]
fn confine_files(_models: &[&Path], _state: Option<&Path>) -> Result<(), String> {
    Err("there is Landlock on Linux only".to_owned())
}

#[cfg(not(target_os = "linux"))]
fn confine_calls(_writes: bool) -> Result<(), String> {
    Err("there is seccomp on Linux only".to_owned())
}

/// The most private memory of a process whose model is meant to take so much: estimates are no
/// promises, and what an allocator keeps counts too.
fn most_memory(bytes: u64) -> u64 {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    bytes
        .saturating_add(bytes / 2)
        .saturating_add(OWN_MEMORY)
        .saturating_add(threads.saturating_mul(THREAD_MEMORY))
}

/// Has writing beyond the limit of a file fail, which can be told, and not end the process.
#[expect(unsafe_code, reason = "no safe function ignores a signal")]
fn ignore_full_files() {
    // SAFETY: no handler is run where a signal is ignored.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Gives up what root may and others may not, but for reading other users' files: which files that
/// can be, Landlock decides.
#[cfg(target_os = "linux")]
fn drop_capabilities() -> Result<(), String> {
    use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
    let drop = || {
        let kept = CapabilitySet::DAC_READ_SEARCH & capabilities(None)?.permitted;
        let none = CapabilitySet::empty();
        set_capabilities(
            None,
            CapabilitySets { effective: kept, permitted: kept, inheritable: none },
        )
    };
    drop().map_err(|error: rustix::io::Errno| format!("they cannot be dropped: {error}"))
}

#[cfg(not(target_os = "linux"))]
fn drop_capabilities() -> Result<(), String> {
    Err("there are capabilities on Linux only".to_owned())
}

/// Lowers a limit for good.
fn limit(resource: Resource, most: u64) -> Result<(), String> {
    let before = getrlimit(resource);
    let most = [before.current, before.maximum, Some(most)].into_iter().flatten().min();
    setrlimit(resource, Rlimit { current: most, maximum: most })
        .map_err(|error| format!("the limit cannot be set: {error}"))
}

#[cfg(feature = "llama")]
fn drives_a_gpu() -> bool {
    crate::llama::drives_a_gpu()
}

/// Templates tell the time.
#[cfg(feature = "llama")]
fn ask_for_the_time_zone() {
    crate::llama::local_zone();
}

#[cfg(not(feature = "llama"))]
fn ask_for_the_time_zone() {}

#[cfg(not(feature = "llama"))]
fn drives_a_gpu() -> bool {
    false
}
