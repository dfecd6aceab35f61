//! An engine's stderr: logged within a rate limit, and the last lines kept for the message when the
//! engine dies.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::bounds::{Allowance, line};

/// How many of the last lines are kept.
const LAST_WORDS: usize = 8;
/// The longest line that is logged, in bytes.
const LONGEST_LINE: u64 = 4096;
/// Bytes that are logged: the burst, and per second. Lines beyond that are counted and dropped.
const LOGGED: (u32, u32) = (64 << 10, 4 << 10);
/// Bytes that are read: the burst, and per second. Beyond that, the engine blocks on its stderr.
const READ_OF_STDERR: (u32, u32) = (8 << 20, 1 << 20);
/// The bytes that a log line has beside the engine's words.
const LINE_COST: usize = 64;

/// Logs the stderr of a process, and returns its most telling line, or "" if there is none.
pub(super) async fn log_stderr(pid: u32, stderr: Option<impl AsyncRead + Unpin>) -> String {
    let Some(stderr) = stderr else { return String::new() };
    let mut lines = BufReader::new(stderr);
    let mut kept = VecDeque::with_capacity(LAST_WORDS);
    let now = Instant::now();
    let mut logged = Allowance::new(LOGGED.0, LOGGED.1, now);
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
            if logged.spend(words.len() + LINE_COST, now) {
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
    // An assertion explains most, and a backtrace may follow it.
    let telling = kept.iter().find(|line| line.contains("ASSERT") || line.contains("terminate"));
    telling.or(kept.back()).cloned().unwrap_or_default()
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
        log_stderr(1, Some(text.as_bytes())).await
    }

    #[tokio::test]
    async fn an_assertion_says_most_else_the_last_line() {
        assert_eq!(of("one\ntwo\n\n").await, "two");
        assert_eq!(of("GGML_ASSERT(x) failed\nbacktrace\n").await, "GGML_ASSERT(x) failed");
        assert_eq!(of("").await, "");
        assert_eq!(of("\x1b[31mred\x07").await, " [31mred ");
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut() {
        let words = of(&"x".repeat(10_000)).await;
        assert_eq!(words.len() as u64, 10_000 % LONGEST_LINE);
    }
}
