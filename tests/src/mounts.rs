//! File systems for a test: small ones and read-only ones.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::eventually;

/// Set for a process that has mounts of its own.
const VARIABLE: &str = "THREADRUNNER_TEST_MOUNTS";

/// Whether this process can mount in private, so that the test can go on.
///
/// If it cannot, the test runs in another process that can: on `false` it has passed. If the system
/// allows nobody mounts of their own, the test is skipped with a message.
///
/// # Panics
/// If the test fails in the other process.
pub fn in_own_mounts(test: &str) -> bool {
    if std::env::var_os(VARIABLE).is_some() {
        return true;
    }
    let Some(unshare) = unshare() else {
        let _ = writeln!(std::io::stderr(), "{test} is skipped: this user cannot mount");
        return false;
    };
    let own = std::env::current_exe().expect("a test knows its own path");
    let status = Command::new(unshare[0])
        .args(&unshare[1..])
        .arg(own)
        .args(["--exact", test, "--nocapture"])
        .env(VARIABLE, "1")
        .status()
        .expect("a test can be started");
    assert!(status.success(), "{test} failed in mounts of its own: {status}");
    false
}

/// The command that gives a program mounts of its own, as root or in a user namespace.
fn unshare() -> Option<&'static [&'static str]> {
    const WAYS: [&[&str]; 2] = [
        &["unshare", "--mount", "--propagation", "private"],
        &["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private"],
    ];
    WAYS.into_iter().find(|way| {
        let mut probe = Command::new(way[0]);
        probe.args(&way[1..]).args(["mount", "-t", "tmpfs", "tmpfs", "/tmp"]);
        let probe = probe.stdout(Stdio::null()).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    })
}

/// Mounts an empty file system in memory, with options such as `size=1m` or `nr_inodes=100`.
///
/// # Panics
/// If that fails.
pub fn mount_small(at: &Path, options: &str) {
    mount(&["-t", "tmpfs", "-o", options, "tmpfs"], at);
}

/// Makes a mounted file system read-only, once no file is open for writing: those of a process that
/// was just waited for are closed when the last of its threads is gone.
///
/// # Panics
/// If a file stays open.
pub fn remount_read_only(at: &Path) {
    eventually("no file is open for writing", || {
        try_mount(&["-o", "remount,ro"], at).is_ok_and(|it| it.success()).then_some(())
    });
}

fn mount(arguments: &[&str], at: &Path) {
    let status = try_mount(arguments, at);
    assert!(status.as_ref().is_ok_and(|it| it.success()), "{}: {status:?}", at.display());
}

fn try_mount(arguments: &[&str], at: &Path) -> io::Result<ExitStatus> {
    Command::new("mount").args(arguments).arg(at).status()
}
