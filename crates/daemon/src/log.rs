//! The log: one file a day in the home's `cache/`, kept for a week.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use threadrunner_home::{Home, Links, open_regular, utc_date};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

const PREFIX: &str = "threadrunner-daemon-";
const SUFFIX: &str = ".log";
/// Today's and the six before it are kept.
const KEEP: Duration = Duration::from_secs(6 * 86_400);
/// And so many files: a clock that leaps makes old what is not.
const KEPT_FILES: usize = 7;

/// Writes to the file of the day, and to stderr too in the foreground.
///
/// The file is the only thing in the daemon behind a lock: a log line may come from any thread.
struct DailyLog {
    home: Home,
    also_stderr: bool,
    today: Mutex<Option<(String, File)>>,
}

/// Starts logging. `RUST_LOG` filters; without it, warnings and the daemon's own milestones.
pub(crate) fn start(home: &Home, also_stderr: bool) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,threadrunner_daemon=info"));
    let writer = DailyLog { home: home.clone(), also_stderr, today: Mutex::new(None) };
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
            let mut options = OpenOptions::new();
            options.create(true).append(true).mode(0o600);
            let file = open_regular(&path, &mut options, Links::Followed)?;
            *today = Some((date, file));
            remove_old(&self.home, now);
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

/// Removes logs of more than a week ago, but not the last few, whatever the clock says. A log that
/// cannot be removed is tried again tomorrow.
fn remove_old(home: &Home, now: SystemTime) {
    let oldest = home.log_file(&utc_date(now - KEEP));
    let is_log = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(PREFIX) && name.ends_with(SUFFIX)
    };
    let entries = fs::read_dir(&home.cache_dir).into_iter().flatten().flatten();
    let mut logs: Vec<_> = entries.map(|entry| entry.path()).filter(is_log).collect();
    // Dates in names: name order is time order.
    logs.sort();
    logs.truncate(logs.len().saturating_sub(KEPT_FILES));
    for path in logs.into_iter().filter(|path| *path < oldest) {
        let _ = fs::remove_file(path);
    }
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
        let other = home.cache_dir.join("model.bin");
        for path in (0..10).map(of_day).chain([other.clone()]) {
            fs::write(path, "").unwrap();
        }
        remove_old(&home, now);
        let left = || fs::read_dir(&home.cache_dir).unwrap().count();
        assert!(other.exists() && of_day(6).exists() && !of_day(7).exists());
        assert_eq!(left(), 8);
        // A clock that leapt ahead takes none of them away.
        remove_old(&home, now + Duration::from_secs(365 * 86_400));
        assert_eq!(left(), 8);
    }
}
