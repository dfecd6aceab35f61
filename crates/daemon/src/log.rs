//! The log: one file a day in the home's `cache/`, kept for a week.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use threadrunner_home::{Home, utc_date};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

const PREFIX: &str = "threadrunner-daemon-";
const SUFFIX: &str = ".log";
/// Where old clients tell people to look for the log, in the user's home.
const USUAL_CACHE: &str = ".cache";
/// Today's and the six before it are kept.
const KEEP: Duration = Duration::from_secs(6 * 86_400);

/// Writes to the file of the day, and to stderr too in the foreground.
///
/// The file is the only thing in the daemon behind a lock: a log line may come from any thread.
struct DailyLog {
    home: Home,
    also_stderr: bool,
    /// Where a link to each day's file goes.
    links: Option<PathBuf>,
    today: Mutex<Option<(String, File)>>,
}

/// The user's cache directory; none where nobody says what the user's home is.
pub(crate) fn usual_cache() -> Option<PathBuf> {
    let home = PathBuf::from(std::env::var_os("HOME")?);
    home.is_absolute().then(|| home.join(USUAL_CACHE))
}

/// Starts logging. `RUST_LOG` filters; without it, warnings and the daemon's own milestones. In
/// `links`, if that is said, a link to each day's file is made.
pub(crate) fn start(home: &Home, also_stderr: bool, links: Option<PathBuf>) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,threadrunner_daemon=info"));
    let writer = DailyLog { home: home.clone(), also_stderr, links, today: Mutex::new(None) };
    // A second daemon in one process (in tests) logs with the first one's subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_target(false)
        .with_writer(writer)
        .try_init();
}

impl DailyLog {
    fn write_line(&self, line: &[u8]) -> io::Result<()> {
        let now = SystemTime::now();
        let date = utc_date(now);
        let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        if today.as_ref().is_none_or(|(opened, _)| *opened != date) {
            let path = self.home.log_file(&date);
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
            *today = Some((date, file));
            remove_old(&self.home, now);
            if let Some(links) = &self.links {
                link(&path, links);
            }
        }
        if let Some((_, file)) = today.as_mut() {
            file.write_all(line)?;
        }
        if self.also_stderr {
            io::stderr().write_all(line)?;
        }
        Ok(())
    }
}

/// Removes logs of more than a week ago. A log that cannot be removed is tried again tomorrow.
fn remove_old(home: &Home, now: SystemTime) {
    let oldest = home.log_file(&utc_date(now - KEEP));
    for entry in fs::read_dir(&home.cache_dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // Dates in names: name order is time order.
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) && path < oldest {
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes a link to a day's file in a directory, and removes those whose files are gone. The log
/// itself is where it always is, so that nothing is lost where this cannot be done.
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

/// One formatted event, written as a whole.
struct Line<'a>(&'a DailyLog);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_line(bytes)?;
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
    use std::time::UNIX_EPOCH;

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
        let old = of_day(7);
        let kept = [of_day(6), of_day(0), home.cache_dir.join("model.bin")];
        for path in kept.iter().chain([&old]) {
            fs::write(path, "").unwrap();
        }
        remove_old(&home, now);
        assert!(!old.exists());
        assert!(kept.iter().all(|path| path.exists()));
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
        // What is another's stays, also where it is of that name and leads nowhere.
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
