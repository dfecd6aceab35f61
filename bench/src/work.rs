//! What is asked of a runtime, whichever it is, and what came of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use threadrunner_core::Priority;

/// One request, answered greedily.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The prompt, without a chat template, so that each runtime reads the same tokens.
    pub prompt: String,
    /// Tokens of the answer, at most.
    pub answer: u32,
    /// Who goes first, where a runtime knows such a thing.
    pub priority: Priority,
}

impl Ask {
    /// Interactively.
    pub fn new(prompt: String, answer: u32) -> Self {
        Self { prompt, answer, priority: Priority::Interactive }
    }
}

/// When things happened to a request.
#[derive(Debug, Clone)]
pub struct Answered {
    /// Before it was sent.
    pub sent: Instant,
    /// When each piece of text came.
    pub pieces: Vec<Instant>,
    /// When its end came.
    pub end: Instant,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub tokens: u64,
}

impl Answered {
    /// From the request to the first token.
    pub fn first_token(&self) -> Duration {
        self.pieces.first().unwrap_or(&self.end).duration_since(self.sent)
    }

    /// Tokens a second after the first one.
    pub fn decode_rate(&self) -> f64 {
        let first = self.sent + self.first_token();
        let last = self.pieces.last().unwrap_or(&self.end);
        self.tokens.saturating_sub(1) as f64 / last.duration_since(first).as_secs_f64()
    }
}

/// What answers requests.
pub trait Runtime: Sync {
    /// Waits for the answer; `None` where there is none, because it was refused or broke off.
    fn ask(&self, ask: &Ask) -> Option<Answered>;
}

/// Asks all at once, from a thread each, and waits for all.
pub fn at_once(runtime: &dyn Runtime, asks: &[Ask]) -> Vec<Answered> {
    let together = Barrier::new(asks.len());
    each(asks, |ask| {
        together.wait();
        runtime.ask(ask)
    })
}

/// Asks each when its time has come, counted from now, and waits for all. Answers are in the order
/// of the requests, `None` where there is none.
pub fn at_times(runtime: &dyn Runtime, asks: &[(Duration, Ask)]) -> Vec<Option<Answered>> {
    let start = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = asks
            .iter()
            .map(|(at, ask)| {
                scope.spawn(move || {
                    thread::sleep((start + *at).saturating_duration_since(Instant::now()));
                    runtime.ask(ask)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client ends")).collect()
    })
}

/// Asks all in order, so many at a time.
pub fn in_turn(runtime: &dyn Runtime, asks: &[Ask], at_a_time: usize) -> Vec<Answered> {
    let next = AtomicUsize::new(0);
    let answers = Mutex::new(Vec::with_capacity(asks.len()));
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while let Some(ask) = asks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let answered = runtime.ask(ask);
                    answers.lock().expect("no thread panicked").extend(answered);
                }
            });
        }
    });
    answers.into_inner().expect("no thread panicked")
}

fn each(asks: &[Ask], ask: impl Fn(&Ask) -> Option<Answered> + Sync) -> Vec<Answered> {
    thread::scope(|scope| {
        let clients: Vec<_> = asks.iter().map(|one| scope.spawn(|| ask(one))).collect();
        clients.into_iter().filter_map(|client| client.join().expect("a client ends")).collect()
    })
}

/// Tokens of all the answers in a second, prompts included in the time.
pub fn tokens_per_s(answers: &[Answered]) -> f64 {
    answers.iter().map(|answered| answered.tokens).sum::<u64>() as f64 / seconds(answers)
}

/// From the first that was sent to the last that ended; 0 of none.
pub fn seconds(answers: &[Answered]) -> f64 {
    let sent = answers.iter().map(|answered| answered.sent).min();
    let end = answers.iter().map(|answered| answered.end).max();
    sent.zip(end).map_or(0.0, |(sent, end)| (end - sent).as_secs_f64())
}
