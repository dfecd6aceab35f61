//! The process between the daemon and a program that runs when a job has ended.
//!
//! If the daemon is killed, the next one runs the program again, so the first run must not outlive
//! its daemon. This process holds one end of a socket whose other end only the daemon has. When
//! that closes, it kills the program's process group. If it is killed itself, the kernel kills the
//! program. It also copies the program's output into the
//! log, up to a limit.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::tied::tie;

/// Makes the daemon's program act as this process. The hook's program and the job's directory
/// follow.
pub(crate) const ARGUMENT: &str = "--attend-hook";

/// The maximum number of bytes in a log; output beyond that is discarded.
const MOST_LOGGED: usize = 1 << 20;
const CUT: &[u8] = b"\n(output truncated to 1 MiB)\n";
/// The maximum number of bytes per read.
const CHUNK: usize = 64 << 10;
/// The maximum number of reads after the program has ended: enough for what it left in the pipe,
/// but no endless output of processes that it started.
const LAST_CHUNKS: usize = 16;

/// How the program ended.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ending {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// The path of this very program, even if an upgrade has replaced its file.
pub(crate) fn own_program() -> PathBuf {
    match cfg!(target_os = "linux") {
        true => "/proc/self/exe".into(),
        false => std::env::current_exe().unwrap_or_else(|_| "threadrunner-daemon".into()),
    }
}

/// Runs `program` and reports how it ended on standard input, which is the socket. Standard output
/// is the log.
pub(crate) fn attend(program: &OsStr, directory: &OsStr) -> ExitCode {
    let Ok(daemon) = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else {
        return ExitCode::FAILURE;
    };
    let ending = run(program, directory, &daemon).unwrap_or_else(|error| Ending {
        error: Some(format!("cannot run {}: {error}", Path::new(program).display())),
        ..Ending::default()
    });
    // If the daemon is gone, its note on disk makes the next one run the hook again.
    match serde_json::to_writer(&daemon, &ending) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(program: &OsStr, directory: &OsStr, daemon: &UnixStream) -> io::Result<Ending> {
    let log = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut log = Log { file: log, room: MOST_LOGGED, is_cut: false };
    let (mut printed, print) = io::pipe()?;
    let mut command = Command::new(program);
    command
        .arg(directory)
        .stdin(Stdio::null())
        .stdout(print.try_clone()?)
        .stderr(print)
        .process_group(0);
    tie(&mut command);
    let child = command.spawn()?;
    // The command holds the pipe's other end.
    drop(command);
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let kill = || {
        // It may have ended just now.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
    };
    let (ended, waiter) = wait_for(child).inspect_err(|_| kill())?;
    let mut chunk = vec![0; CHUNK];
    let mut prints = true;
    loop {
        let mut fds = [
            PollFd::new(daemon, PollFlags::IN),
            PollFd::new(&ended, PollFlags::IN),
            PollFd::new(&printed, PollFlags::IN),
        ];
        let watched = if prints { 3 } else { 2 };
        match poll(&mut fds[..watched], None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let [gone, done, printing] = fds.map(|fd| !fd.revents().is_empty());
        if gone {
            // The daemon sends nothing, so this is the end of the stream.
            kill();
            break;
        }
        if done {
            read_the_rest(&mut printed, &mut chunk, &mut log)?;
            break;
        }
        if printing {
            match printed.read(&mut chunk)? {
                0 => prints = false,
                count => log.add(&chunk[..count]),
            }
        }
    }
    let status = waiter.join().map_err(|_| io::Error::other("waiting for it panicked"))??;
    Ok(Ending { exit_code: status.code(), signal: status.signal(), error: None })
}

type Waiter = thread::JoinHandle<io::Result<ExitStatus>>;

/// Waits for the program in a thread. The returned pipe reports the end of the stream once the
/// program has ended.
fn wait_for(mut child: Child) -> io::Result<(PipeReader, Waiter)> {
    let (ended, end) = io::pipe()?;
    let waiter = thread::Builder::new().spawn(move || {
        let status = child.wait();
        drop(end);
        status
    })?;
    Ok((ended, waiter))
}

/// Reads what is in the pipe after the program has ended, without blocking: a process that the
/// program started may hold the pipe open.
fn read_the_rest(printed: &mut PipeReader, chunk: &mut [u8], log: &mut Log) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&*printed, true)?;
    for _ in 0..LAST_CHUNKS {
        match printed.read(chunk) {
            Ok(count @ 1..) => log.add(&chunk[..count]),
            Ok(0) | Err(_) => break,
        }
    }
    Ok(())
}

struct Log {
    file: File,
    room: usize,
    is_cut: bool,
}

impl Log {
    /// Writes as much as there is room for. Ignores a full disk: the program continues.
    fn add(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(self.room);
        let _ = self.file.write_all(&bytes[..fits]);
        if bytes.len() > fits && !self.is_cut {
            self.is_cut = true;
            let _ = self.file.write_all(CUT);
        }
        self.room -= fits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek;

    #[test]
    fn a_log_has_a_bound_and_says_so_once() {
        let mut log = Log { file: tempfile::tempfile().unwrap(), room: 8, is_cut: false };
        for text in ["12345", "6789", "10"] {
            log.add(text.as_bytes());
        }
        let mut text = String::new();
        log.file.rewind().unwrap();
        log.file.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("12345678{}", String::from_utf8_lossy(CUT)));
    }

    #[test]
    fn an_ending_survives_the_socket() {
        let ending = Ending { exit_code: Some(3), ..Ending::default() };
        let text = serde_json::to_string(&ending).unwrap();
        assert_eq!(text, r#"{"exit_code":3}"#);
        assert_eq!(serde_json::from_str::<Ending>(&text).unwrap(), ending);
    }
}
