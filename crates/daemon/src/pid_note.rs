//! `.nrvnad.pid` in a workspace, from which clients of nrvna-ai see that a daemon serves it.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use threadrunner_core::{ErrorCode, Failure};

const FILE: &str = ".nrvnad.pid";
/// The process name of nrvna-ai's daemon.
const OTHER: &str = "nrvnad";
/// More digits than a process id has.
const DIGITS: u64 = 20;

/// Refuses a workspace that nrvna-ai's daemon serves: both would run the same jobs.
pub(crate) fn check(workspace: &Path) -> Result<(), Failure> {
    match read(workspace) {
        Some(pid) if is_other(pid) => Err(Failure::new(
            ErrorCode::Config,
            format!(
                "the workspace {} is already in use by nrvna-ai's daemon, process {pid}",
                workspace.display()
            ),
        )
        .hint(format!("stop it first: `kill {pid}`"))),
        _ => Ok(()),
    }
}

/// Notes that this process serves the workspace.
pub(crate) fn write(workspace: &Path) {
    let path = workspace.join(FILE);
    // Do not follow a link, nor block on a pipe.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(&path);
    let written = file.and_then(|mut file| write!(file, "{}", std::process::id()));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "cannot write the process id");
    }
}

/// Removes the note if it is this process's.
pub(crate) fn remove(workspace: &Path) {
    if read(workspace) == Some(std::process::id()) {
        let _ = fs::remove_file(workspace.join(FILE));
    }
}

fn read(workspace: &Path) -> Option<u32> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(workspace.join(FILE)).ok()?;
    let mut text = String::new();
    read_some(&file, &mut text).ok()?;
    text.trim().parse().ok()
}

fn read_some(file: &fs::File, text: &mut String) -> io::Result<usize> {
    file.take(DIGITS).read_to_string(text)
}

fn is_other(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_is_there_while_the_daemon_is() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path()).unwrap();
        write(dir.path());
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert_eq!(text, std::process::id().to_string());
        // It names this process, which is not called nrvnad.
        check(dir.path()).unwrap();
        remove(dir.path());
        assert!(!dir.path().join(FILE).exists());
        // The note of another process stays.
        fs::write(dir.path().join(FILE), "1\n").unwrap();
        remove(dir.path());
        assert!(dir.path().join(FILE).exists());
    }

    #[test]
    fn a_link_or_a_pipe_in_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.path().join(FILE)).unwrap();
        write(dir.path());
        remove(dir.path());
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
        fs::remove_file(dir.path().join(FILE)).unwrap();
        let pipe = dir.path().join(FILE);
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        write(dir.path());
        check(dir.path()).unwrap();
    }
}
