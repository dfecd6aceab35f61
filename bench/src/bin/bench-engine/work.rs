//! What is asked of a runtime, whichever it is, and what came of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Instant;

/// One request, answered greedily.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) prompt: &'a str,
    /// Tokens of the answer, at most.
    pub(crate) answer: u32,
    /// Batch work, which others go before.
    pub(crate) batch: bool,
}

/// When things happened to a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) sent: Instant,
    pub(crate) first: Instant,
    pub(crate) end: Instant,
    pub(crate) tokens: u64,
}

/// What answers requests.
pub(crate) trait Runtime: Sync {
    fn ask(&self, ask: &Ask<'_>) -> Answered;
}

/// A prompt like no other's of the round, of another round or of another table, so that nothing of it
/// is cached: with so many words and about as many tokens.
pub(crate) fn story(table: &str, round: usize, client: usize, count: usize) -> String {
    let words = words(round + client * 3, count);
    // What differs comes first: nothing to speak of is shared.
    format!("{client} in {round}, {table}: a story about {words}. Once upon a time")
}

/// So many words, of one token each; others for another `from`.
pub(crate) fn words(from: usize, count: usize) -> String {
    const WORDS: [&str; 8] =
        ["river", "stone", "letter", "morning", "window", "garden", "paper", "road"];
    let word = |n: usize| WORDS[(n * 5 + from + n / 7) % WORDS.len()];
    (0..count).map(word).collect::<Vec<_>>().join(" ")
}

/// Asks all at once, from a thread each, and waits for all.
pub(crate) fn at_once(runtime: &dyn Runtime, asks: &[Ask<'_>]) -> Vec<Answered> {
    let together = Barrier::new(asks.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = asks
            .iter()
            .map(|ask| {
                scope.spawn(|| {
                    together.wait();
                    runtime.ask(ask)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    })
}

/// Asks all in order, so many at a time.
pub(crate) fn in_turn(runtime: &dyn Runtime, asks: &[Ask<'_>], at_a_time: usize) -> Vec<Answered> {
    let next = AtomicUsize::new(0);
    let answers = Mutex::new(Vec::with_capacity(asks.len()));
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while let Some(ask) = asks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let answered = runtime.ask(ask);
                    answers.lock().expect("no thread panicked").push(answered);
                }
            });
        }
    });
    answers.into_inner().expect("no thread panicked")
}

/// Tokens of all the answers in a second, prompts included in the time.
pub(crate) fn tokens_per_s(answers: &[Answered]) -> f64 {
    answers.iter().map(|answered| answered.tokens).sum::<u64>() as f64 / seconds(answers)
}

/// From the first that was sent to the last that ended.
pub(crate) fn seconds(answers: &[Answered]) -> f64 {
    let sent = answers.iter().map(|answered| answered.sent).min().expect("an answer");
    let end = answers.iter().map(|answered| answered.end).max().expect("an answer");
    (end - sent).as_secs_f64()
}
