//! Ends everything that is measured when this program ends, however it ends. A process left behind
//! would compute beside the next measurement.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// A process that kills others if this program ends first.
#[derive(Debug)]
pub(crate) struct Guard(Child);

impl Guard {
    /// Guards these processes.
    pub(crate) fn of(pids: &[u32]) -> Self {
        let child = Command::new("sh")
            // `read` returns at the end of its input: when this program has gone.
            .args(["-c", "read -r _; kill -9 \"$@\"", "sh"])
            .args(pids.iter().map(u32::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal to this program's process group must not kill the guard.
            .process_group(0)
            .spawn();
        Self(child.expect("a shell starts"))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Kill it before its stdin closes, or it would kill the processes.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
