//! Nothing that is measured outlives this program, however that ends: what was left behind would
//! compute beside the next measurement.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// A process that ends others when this program has ended before it.
#[derive(Debug)]
pub(crate) struct Guard(Child);

impl Guard {
    /// Of these.
    pub(crate) fn of(pids: &[u32]) -> Self {
        let child = Command::new("sh")
            // There is nothing to read until nobody is left to write.
            .args(["-c", "read -r _; kill -9 \"$@\"", "sh"])
            .args(pids.iter().map(u32::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What ends this program's group is not to end the guard.
            .process_group(0)
            .spawn();
        Self(child.expect("a shell starts"))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Before its stdin is closed, or it would do its work.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
