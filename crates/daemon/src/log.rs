//! The log: one file a day in the home's `cache/`, kept for a week.
//!
//! Failing to write the log neither stops nor blocks the daemon: the next line that can be written
//! says how many are missing. tracing-appender promises less: it counts no lost lines, complains of a
//! day's file with `eprintln!`, which panics if stderr is closed, waits on a named pipe in the file's
//! place, and puts dots around the date in its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use threadrunner_home::{Home, Links, open_regular, utc_date};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

const PREFIX: &str = "threadrunner-daemon-";
const SUFFIX: &str = ".log";
/// Where old clients tell people to look for the log, relative to the user's home.
const USUAL_CACHE: &str = ".cache";
/// Keeps today's file and those of the six days before.
const KEEP: Duration = Duration::from_secs(6 * 86_400);
/// Keeps at least this many files: after a clock jump, recent files look old.
const KEPT_FILES: usize = 7;
/// A pipe that polls as writable takes this many bytes without blocking.
const CHUNK: usize = 4096;

/// Writes to the day's file, and in the foreground to stderr too.
///
/// The state is behind a mutex because any thread may log.
struct DailyLog {
    home: Home,
    also_stderr: bool,
    /// The directory for a link to each day's file.
    links: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    today: Option<(String, File)>,
    /// Lines lost since the last successful write.
    missing: u64,
    missing_on_stderr: u64,
}

/// The user's cache directory, `~/.cache`; `None` if `HOME` is not an absolute path.
pub(crate) fn usual_cache() -> Option<PathBuf> {
    let home = PathBuf::from(std::env::var_os("HOME")?);
    home.is_absolute().then(|| home.join(USUAL_CACHE))
}

/// Starts logging. `RUST_LOG` filters; without it, warnings and the daemon's own milestones are
/// logged. If `links` is given, a link to each day's file is made in that directory.
pub(crate) fn start(home: &Home, also_stderr: bool, links: Option<PathBuf>) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,threadrunner_daemon=info"));
    let writer = DailyLog { home: home.clone(), also_stderr, links, state: Mutex::default() };
    // A second daemon in one process (in tests) uses the first one's subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_target(false)
        // tracing would report its errors on stderr, and panic if that is closed.
        .log_internal_errors(false)
        .with_writer(writer)
        .try_init();
}

impl DailyLog {
    fn write_line(&self, line: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { today, missing, missing_on_stderr } = &mut *state;
        write_noting(missing, line, |line| self.append(today, line));
        if self.also_stderr {
            write_noting(missing_on_stderr, line, |line| write_at_once(io::stderr(), line));
        }
    }

    /// Appends a line to the day's file.
    fn append(&self, today: &mut Option<(String, File)>, line: &[u8]) -> io::Result<()> {
        let now = SystemTime::now();
        let date = utc_date(now);
        let file = match today {
            Some((opened, file)) if *opened == date => file,
            _ => {
                let path = self.home.log_file(&date);
                let mut options = OpenOptions::new();
                options.create(true).append(true).mode(0o600);
                let file = open_regular(&path, &mut options, Links::Followed)?;
                remove_old(&self.home, now);
                if let Some(links) = &self.links {
                    link(&path, links);
                }
                &mut today.insert((date, file)).1
            }
        };
        file.write_all(line)
    }
}

/// Writes a line, preceded by the number of lines lost before it.
fn write_noting(missing: &mut u64, line: &[u8], mut write: impl FnMut(&[u8]) -> io::Result<()>) {
    let written = match *missing {
        0 => write(line),
        // Start on a new line: the last write may have been cut short.
        lines => {
            write(format!("\n{lines} lines are missing: they could not be written\n").as_bytes())
                .and_then(|()| {
                    *missing = 0;
                    write(line)
                })
        }
    };
    if written.is_err() {
        *missing += 1;
    }
}

/// Writes without blocking: neither a stopped terminal nor a pipe that nobody reads may stop the
/// daemon.
fn write_at_once(mut file: impl AsFd + Write, line: &[u8]) -> io::Result<()> {
    for chunk in line.chunks(CHUNK) {
        let mut fds = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::OUT)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        if !fds[0].revents().contains(PollFlags::OUT) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        file.write_all(chunk)?;
    }
    Ok(())
}

/// Removes logs more than a week old, except the last [`KEPT_FILES`], whatever the clock says. If
/// removing one fails, it is tried again the next day.
fn remove_old(home: &Home, now: SystemTime) {
    let oldest = home.log_file(&utc_date(now - KEEP));
    let is_log = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(PREFIX) && name.ends_with(SUFFIX)
    };
    let entries = fs::read_dir(&home.cache_dir).into_iter().flatten().flatten();
    let mut logs: Vec<_> = entries.map(|entry| entry.path()).filter(is_log).collect();
    // Names contain dates, so sorting by name sorts by time.
    logs.sort();
    logs.truncate(logs.len().saturating_sub(KEPT_FILES));
    for path in logs.into_iter().filter(|path| *path < oldest) {
        let _ = fs::remove_file(path);
    }
}

/// Links a day's file into a directory, and removes links whose files are gone. Best effort: the
/// log itself does not depend on the link.
fn link(log: &Path, links: &Path) {
    let Some((logs, name)) = log.parent().zip(log.file_name()) else { return };
    let _ = fs::create_dir(links);
    for entry in fs::read_dir(links).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        let ours = name.starts_with(PREFIX) && name.ends_with(SUFFIX);
        let ours = ours && fs::read_link(&path).is_ok_and(|to| to.parent() == Some(logs));
        if ours && !path.exists() {
            let _ = fs::remove_file(path);
        }
    }
    let _ = std::os::unix::fs::symlink(log, links.join(name));
}

/// Writes one formatted event as a whole.
struct Line<'a>(&'a DailyLog);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_line(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for DailyLog {
    type Writer = Line<'a>;
    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::time::UNIX_EPOCH;

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_told_of() {
        let (mut missing, mut log, mut full) = (0, Vec::new(), false);
        for (line, is_full) in [("a\n", false), ("b\n", true), ("c\n", true), ("d\n", false)] {
            full = is_full;
            write_noting(&mut missing, line.as_bytes(), |line| {
                if full {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                log.write_all(line)
            });
        }
        assert!(!full);
        let log = String::from_utf8(log).unwrap();
        assert_eq!(log, "a\n\n2 lines are missing: they could not be written\nd\n");
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let error = loop {
            if let Err(error) = write_at_once(&ours, &[b'x'; CHUNK]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(theirs);
        assert!(write_at_once(&ours, b"x").is_err());
    }

    #[test]
    fn only_logs_older_than_a_week_go() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::resolve(directory.path(), |name| {
            (name == "THREADRUNNER_HOME").then(|| directory.path().into())
        })
        .unwrap();
        home.create().unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(20_000 * 86_400);
        let of_day = |days: u64| home.log_file(&utc_date(now - Duration::from_secs(days * 86_400)));
        let other = home.cache_dir.join("model.bin");
        for path in (0..10).map(of_day).chain([other.clone()]) {
            fs::write(path, "").unwrap();
        }
        remove_old(&home, now);
        let left = || fs::read_dir(&home.cache_dir).unwrap().count();
        assert!(other.exists() && of_day(6).exists() && !of_day(7).exists());
        assert_eq!(left(), 8);
        // A clock that jumped ahead removes none of them.
        remove_old(&home, now + Duration::from_secs(365 * 86_400));
        assert_eq!(left(), 8);
    }

    #[test]
    fn a_link_leads_to_the_log_and_goes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let (logs, links) = (directory.path().join("logs"), directory.path().join("links"));
        fs::create_dir(&logs).unwrap();
        let day = |date: &str| format!("{PREFIX}{date}{SUFFIX}");
        let (first, second) = (day("2026-01-01"), day("2026-01-02"));
        fs::write(logs.join(&first), "one").unwrap();
        link(&logs.join(&first), &links);
        link(&logs.join(&first), &links);
        assert_eq!(fs::read_to_string(links.join(&first)).unwrap(), "one");
        // Links of others stay, even if they have such a name and are dangling.
        let other = links.join(day("2025-01-01"));
        std::os::unix::fs::symlink("/nowhere/x", &other).unwrap();
        fs::write(links.join("file"), "").unwrap();
        fs::remove_file(logs.join(&first)).unwrap();
        fs::write(logs.join(&second), "two").unwrap();
        link(&logs.join(&second), &links);
        assert_eq!(fs::read_to_string(links.join(&second)).unwrap(), "two");
        assert!(links.join(&first).symlink_metadata().is_err());
        assert!(other.symlink_metadata().is_ok() && links.join("file").exists());
    }
}
