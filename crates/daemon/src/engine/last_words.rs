//! An engine's stderr: logged within a rate limit of all engines together, and the last lines kept for the message when the
//! engine dies.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::bounds::{Allowance, line};

/// How many of the last lines are kept.
const LAST_WORDS: usize = 8;
/// The longest line that is logged, in bytes.
const LONGEST_LINE: u64 = 4096;
/// Bytes that are logged of all engines: the burst, and per second. Lines beyond that are counted and
/// dropped. An engine that dies again and again has no more than one that stays.
const LOGGED: (u32, u32) = (64 << 10, 4 << 10);
/// Bytes that are read: the burst, and per second. Beyond that, the engine blocks on its stderr.
const READ_OF_STDERR: (u32, u32) = (8 << 20, 1 << 20);
/// The bytes that a log line has beside the engine's words.
const LINE_COST: usize = 64;

/// Rust's words for a panic, which the place follows.
const PANICKED: &str = " panicked at ";
/// What the line has in it that tells why a program ends itself.
const TELLING: [&str; 4] = ["ASSERT", "terminate", "memory allocation of ", PANICKED];
/// The start of Rust's advice after a panic.
const NOTE: &str = "note: run with `RUST_BACKTRACE";

/// How much more is logged of all engines.
#[derive(Debug)]
pub(super) struct LogBudget(Mutex<Allowance>);

impl LogBudget {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Allowance::new(LOGGED.0, LOGGED.1, Instant::now())))
    }

    fn spend(&self, words: usize, now: Instant) -> bool {
        let mut allowance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        allowance.spend(words + LINE_COST, now)
    }
}

/// Logs the stderr of a process, and returns its most telling line, or "" if there is none.
pub(super) async fn log_stderr(
    pid: u32,
    stderr: impl AsyncRead + Unpin,
    budget: &LogBudget,
) -> String {
    let mut lines = BufReader::new(stderr);
    let mut kept = VecDeque::with_capacity(LAST_WORDS);
    let now = Instant::now();
    let mut read = Allowance::new(READ_OF_STDERR.0, READ_OF_STDERR.1, now);
    let mut dropped = 0_u64;
    loop {
        let mut bytes = Vec::new();
        match (&mut lines).take(LONGEST_LINE).read_until(b'\n', &mut bytes).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let now = Instant::now();
        let words = line(String::from_utf8_lossy(&bytes).trim_end(), bytes.len());
        if !words.is_empty() {
            if budget.spend(words.len(), now) {
                tell_of_dropped(pid, &mut dropped);
                tracing::warn!(pid, "engine: {words}");
            } else {
                dropped += 1;
            }
            if kept.len() == LAST_WORDS {
                kept.pop_front();
            }
            kept.push_back(words);
        }
        if let Some(pause) = read.overdraw(bytes.len(), now) {
            tokio::time::sleep(pause).await;
        }
    }
    tell_of_dropped(pid, &mut dropped);
    telling(&kept)
}

/// The line that says most: of an assertion or the like, which a backtrace may follow, or else the
/// last one.
fn telling(lines: &VecDeque<String>) -> String {
    let tells = |line: &String| TELLING.iter().any(|words| line.contains(words));
    if let Some(at) = lines.iter().position(tells) {
        return match lines.get(at + 1) {
            // Rust names the place, and says in the next line what happened.
            Some(next) if lines[at].contains(PANICKED) => format!("{} {next}", lines[at]),
            _ => lines[at].clone(),
        };
    }
    lines.iter().rfind(|line| !line.starts_with(NOTE)).cloned().unwrap_or_default()
}

fn tell_of_dropped(pid: u32, dropped: &mut u64) {
    if *dropped > 0 {
        tracing::warn!(pid, "engine: {dropped} more lines were not logged: too many at once");
        *dropped = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn of(text: &str) -> String {
        log_stderr(1, text.as_bytes(), &LogBudget::new()).await
    }

    #[tokio::test]
    async fn what_one_engine_says_is_no_longer_there_for_the_next() {
        let (budget, start) = (LogBudget::new(), Instant::now());
        assert!(budget.spend(1000, start));
        let text = "x".repeat(99) + "\n";
        log_stderr(1, text.repeat(1000).as_bytes(), &budget).await;
        // An earlier time refills nothing, however long this took.
        assert!(!budget.spend(1000, start));
    }

    #[tokio::test]
    async fn an_assertion_says_most_else_the_last_line() {
        assert_eq!(of("one\ntwo\n\n").await, "two");
        assert_eq!(of("GGML_ASSERT(x) failed\nbacktrace\n").await, "GGML_ASSERT(x) failed");
        let note =
            "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
        let failed = "memory allocation of 9 bytes failed";
        assert_eq!(of(&format!("{failed}\n{note}")).await, failed);
        let place = "thread 'main' (7) panicked at src/a.rs:1:2:";
        assert_eq!(of(&format!("{place}\nno room\n{note}")).await, format!("{place} no room"));
        assert_eq!(of(&format!("two\n{note}")).await, "two");
        assert_eq!(of(note).await, "");
        assert_eq!(of("").await, "");
        assert_eq!(of("\x1b[31mred\x07").await, " [31mred ");
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut() {
        let words = of(&"x".repeat(10_000)).await;
        assert_eq!(words.len() as u64, 10_000 % LONGEST_LINE);
    }
}
