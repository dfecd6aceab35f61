//! Ties child processes to this one: the kernel kills them when it dies, however it dies.

#![expect(unsafe_code, reason = "what a child does between fork and exec has no safe wrapper")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the kernel kill the command's process when the calling thread exits, so call this and start
/// the command on the main thread. Only Linux can do that. A setuid program is not killed.
pub(crate) fn tie(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: the closure only makes system calls and allocates nothing.
    unsafe { command.pre_exec(move || tie_to(parent)) };
}

#[cfg(target_os = "linux")]
fn tie_to(parent: u32) -> io::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before this; then no signal comes.
    let now = getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    if now == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
}

#[cfg(not(target_os = "linux"))]
fn tie_to(_parent: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_tied_process_ends_with_the_thread_that_started_it() {
        let start = || {
            let mut command = Command::new("sleep");
            tie(command.arg("600"));
            command.spawn().unwrap()
        };
        let mut child = std::thread::spawn(start).join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn a_process_whose_parent_has_died_already_does_not_start() {
        let mut command = Command::new("true");
        // SAFETY: as in `tie`.
        unsafe { command.pre_exec(|| tie_to(1)) };
        assert_eq!(command.status().unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
