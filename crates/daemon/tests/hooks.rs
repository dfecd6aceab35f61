//! The process between the daemon and a hook's program.

#![cfg(target_os = "linux")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Waits for something, and fails if it never comes.
fn eventually<T>(mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
fn a_hook_does_not_outlive_the_process_that_attends_it() {
    let temp = tempfile::tempdir().unwrap();
    let program = temp.path().join("hook");
    fs::write(&program, "#!/bin/sh\necho $$ >pid.tmp\nmv pid.tmp pid\nexec sleep 600\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (_daemon, theirs) = UnixStream::pair().unwrap();
    let mut attendant = Command::new(env!("CARGO_BIN_EXE_threadrunner-daemon"))
        .arg("--attend-hook")
        .args([&program, temp.path()])
        .current_dir(temp.path())
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = eventually(|| fs::read_to_string(temp.path().join("pid")).ok());
    let process = Path::new("/proc").join(pid.trim());
    assert!(process.exists());
    attendant.kill().unwrap();
    attendant.wait().unwrap();
    // A zombie has no program any more.
    eventually(|| fs::read_link(process.join("exe")).is_err().then_some(()));
}
