//! Sets up the process (log, limits, session), opens its standard input, and ends it.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::process::{Resource, Rlimit, setrlimit, setsid};
use threadrunner_core::ExitCode;
use tracing_subscriber::EnvFilter;

use crate::caught;

/// Sets the process up. Must be called first.
pub fn prepare() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG_FILTER));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    caught::install();

    // A core dump would write the whole model to disk.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!("cannot disable core dumps: {error}");
    }
    // Ctrl-C and a closed terminal are for the daemon to handle. This fails if a shell started the
    // engine in a process group of its own, and then Ctrl-C is meant for the engine.
    let _ = setsid();
    // Deliberately no PR_SET_PDEATHSIG: it is tied to the thread that started the process, and a
    // daemon's threads come and go. The reader notices that the daemon died by the end of the
    // stream, even during a forward pass.
}

const DEFAULT_LOG_FILTER: &str = "warn";

/// Returns the connection to the daemon: standard input, which must be a socket.
///
/// # Errors
/// When standard input is not a socket.
pub fn standard_input() -> io::Result<UnixStream> {
    let fd = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::net::sockopt::socket_type(&fd)?;
    Ok(UnixStream::from(fd))
}

/// Ends the process at once, whatever other threads are doing.
#[expect(unsafe_code, reason = "std's exit runs C++ destructors under the feet of other threads")]
pub fn leave(code: ExitCode) -> ! {
    // SAFETY: `_exit` has no preconditions; it runs no destructor and no handler.
    unsafe { libc::_exit(i32::from(code as u8)) }
}
