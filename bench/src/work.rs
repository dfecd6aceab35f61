//! Requests to a runtime, whichever it is, and what came of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use threadrunner_core::Priority;

/// A request, answered greedily.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The prompt, without a chat template, so that each runtime reads the same tokens.
    pub prompt: String,
    /// The maximum number of tokens to generate.
    pub answer: u32,
    /// The priority, for a runtime that has priorities.
    pub priority: Priority,
}

impl Ask {
    /// An interactive request.
    pub fn new(prompt: String, answer: u32) -> Self {
        Self { prompt, answer, priority: Priority::Interactive }
    }
}

/// When things happened to a request.
#[derive(Debug, Clone)]
pub struct Answered {
    /// Just before it was sent.
    pub sent: Instant,
    /// When each piece of text arrived.
    pub pieces: Vec<Instant>,
    /// When it ended.
    pub end: Instant,
    /// Tokens in the prompt.
    pub prompt_tokens: u64,
    /// Tokens in the answer.
    pub tokens: u64,
}

impl Answered {
    /// The time from the request to the first token.
    pub fn first_token(&self) -> Duration {
        self.pieces.first().unwrap_or(&self.end).duration_since(self.sent)
    }

    /// Tokens a second, after the first token.
    pub fn decode_rate(&self) -> f64 {
        let first = self.sent + self.first_token();
        let last = self.pieces.last().unwrap_or(&self.end);
        self.tokens.saturating_sub(1) as f64 / last.duration_since(first).as_secs_f64()
    }
}

/// Something that answers requests.
pub trait Runtime: Sync {
    /// Waits for the answer; `None` if the request was refused or broke off.
    fn ask(&self, ask: &Ask) -> Option<Answered>;
}

/// Sends all requests at once, from a thread each, and waits for all answers.
pub fn at_once(runtime: &dyn Runtime, asks: &[Ask]) -> Vec<Answered> {
    let together = Barrier::new(asks.len());
    each(asks, |ask| {
        together.wait();
        runtime.ask(ask)
    })
}

/// Sends each request at its time, counted from now, and waits for all. The answers are in the
/// order of the requests, `None` if there is none.
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

/// Sends all requests in order, `at_a_time` at once.
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

/// Tokens of all answers a second; the time includes reading the prompts.
pub fn tokens_per_s(answers: &[Answered]) -> f64 {
    answers.iter().map(|answered| answered.tokens).sum::<u64>() as f64 / seconds(answers)
}

/// Seconds from the first request sent to the last answer's end; 0 if there are none.
pub fn seconds(answers: &[Answered]) -> f64 {
    let sent = answers.iter().map(|answered| answered.sent).min();
    let end = answers.iter().map(|answered| answered.end).max();
    sent.zip(end).map_or(0.0, |(sent, end)| (end - sent).as_secs_f64())
}
