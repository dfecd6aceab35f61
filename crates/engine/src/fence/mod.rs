//! What the engine gives up before it opens a model file.
//!
//! A model file is untrusted input to a parser in C++. So before the process reads the first byte
//! of it, it drops every right that answering does not need. From then on it
//!
//! - reads only the files of the model and of its draft model,
//! - writes only to the directory it was given for session states, and only as much as fits there,
//! - opens no socket, starts no program or process, and signals no other process,
//! - makes no memory executable and sets no file's times.
//!
//! None of this can be undone. If the kernel lacks a part, the rest still holds, and [`enter`] says
//! what is missing.
//!
//! Two Linux mechanisms do most of this, and their protection overlaps: Landlock restricts files
//! and ports ([`files`]), seccomp restricts system calls ([`calls`]). A GPU's driver opens devices,
//! libraries and caches and starts helper processes, so an engine for a GPU is not fenced in, and
//! says so.

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

/// The maximum number of open file descriptors: enough for the parts of a model, and a few more.
const MOST_FILES: u64 = 512;
/// Private memory that a process needs beyond its model, in bytes: code and data, the text of
/// prompts, states on their way to disk.
const OWN_MEMORY: u64 = 1 << 30;
/// Private memory for the stack of each thread, in bytes.
const THREAD_MEMORY: u64 = 16 << 20;

/// Fences this process in. It can then read only `models`, their other parts and the files in
/// `state`, and write only the latter. Its private memory is limited to what a process needs that
/// is expected to use `memory` bytes, and to the machine's memory.
///
/// Call this before starting a second thread: Landlock covers only the calling thread and the
/// threads that it starts later. Returns the parts that could not be enforced, each with the
/// reason.
pub(crate) fn enter(
    models: &[&Path],
    state: Option<&StateDirectory>,
    memory: Option<u64>,
) -> Vec<String> {
    // Behind the fence, only what was looked up before is available.
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
    // Limits each file. The daemon watches their total size.
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
    Err("Landlock is available on Linux only".to_owned())
}

#[cfg(not(target_os = "linux"))]
fn confine_calls(_writes: bool) -> Result<(), String> {
    Err("seccomp is available on Linux only".to_owned())
}

/// The private memory to allow a process that is expected to use `bytes`: half as much again,
/// because estimates can be off and memory that an allocator retains counts too, plus what the
/// process itself and its threads need.
fn most_memory(bytes: u64) -> u64 {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    bytes
        .saturating_add(bytes / 2)
        .saturating_add(OWN_MEMORY)
        .saturating_add(threads.saturating_mul(THREAD_MEMORY))
}

/// Makes writing past the file size limit fail with an error instead of ending the process.
#[expect(unsafe_code, reason = "no safe function ignores a signal")]
fn ignore_full_files() {
    // SAFETY: an ignored signal runs no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Drops root's capabilities, except for reading other users' files. Landlock decides which files
/// those are.
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
    drop().map_err(|error: rustix::io::Errno| format!("cannot drop them: {error}"))
}

#[cfg(not(target_os = "linux"))]
fn drop_capabilities() -> Result<(), String> {
    Err("capabilities are available on Linux only".to_owned())
}

/// Lowers a resource limit permanently.
fn limit(resource: Resource, most: u64) -> Result<(), String> {
    let before = getrlimit(resource);
    let most = [before.current, before.maximum, Some(most)].into_iter().flatten().min();
    setrlimit(resource, Rlimit { current: most, maximum: most })
        .map_err(|error| format!("cannot set the limit: {error}"))
}

#[cfg(feature = "llama")]
fn drives_a_gpu() -> bool {
    crate::llama::drives_a_gpu()
}

/// Looks up the local time zone, which templates need to tell the time.
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
