//! What an engine writes to its standard error: logged as far as a log has room for it, and the last of
//! it kept for the message when the engine dies.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::bounds::{Allowance, line};

/// Lines of its stderr that are kept for the message when it dies.
const LAST_WORDS: usize = 8;
/// The longest line of stderr that is logged, in bytes.
const LONGEST_LINE: u64 = 4096;
/// Bytes of stderr that are logged at once, and those that are logged each second beyond. What an
/// engine writes beyond that is counted and dropped.
const LOGGED: (u32, u32) = (64 << 10, 4 << 10);
/// Bytes of stderr that are read at once, and each second beyond: somebody has to read them.
const READ_OF_STDERR: (u32, u32) = (8 << 20, 1 << 20);
/// What a line of the log has beside the words.
const LINE_COST: usize = 64;

/// Logs what the process writes to stderr, and returns the last of it as one line.
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
    // An assertion says most; it is not always last.
    let telling = kept.iter().find(|line| line.contains("ASSERT") || line.contains("terminate"));
    telling.or(kept.back()).cloned().unwrap_or_default()
}

fn tell_of_dropped(pid: u32, dropped: &mut u64) {
    if *dropped > 0 {
        tracing::warn!(pid, "engine: {dropped} more lines were too many to be logged");
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
