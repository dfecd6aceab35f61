//! What the daemon adds to llama.cpp: the same prompts, model, threads and compiler flags through
//! the daemon's socket and through a plain loop over llama.cpp in this process, in turn.
//!
//! `bench-engine --model FILE [--rounds N] [--only-prefix]`; the last measures only what sharing a
//! prefix is worth. Expects release builds of the three programs, with
//! llama, beside it.

mod daemon;
mod floor;
mod prefix;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use threadrunner_bench::{Series, Table, flag};

/// Tokens generated where the rate is measured.
const ANSWER: u32 = 128;
/// Clients at once.
const CLIENTS: usize = 8;

/// What one way of doing it took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// Tokens of one prompt.
    pub(crate) prompt_tokens: u32,
    /// From the request to the first token, in milliseconds.
    pub(crate) first_token_ms: f64,
    /// Tokens a second after the first token; of all sequences together.
    pub(crate) tokens_per_s: f64,
}

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--model").skip(1);
    let Some(model) = arguments.next().map(PathBuf::from) else {
        panic!("which model? --model FILE");
    };
    let rounds = flag("--rounds", 5);
    if std::env::args().any(|argument| argument == "--only-prefix") {
        prefix::compare(&model, rounds);
        return;
    }
    let server = daemon::Server::start(&model);
    floor::with_loop(&model, |floor| {
        let compare = |title: &str, work: &Work, busy: bool| {
            let table = Table::new(title, &["what", "one process", "daemon", "ratio"]);
            let neighbour = busy.then(Neighbour::start);
            let mut figures: [[Series; 3]; 2] = Default::default();
            for round in 0..rounds {
                let prompts = work.prompts(round);
                let own = floor.measure(&prompts, work.answer);
                let ours = server.measure(&prompts, work.answer);
                assert_eq!(own.prompt_tokens, ours.prompt_tokens, "not the same prompt");
                for (series, measured) in figures.iter_mut().zip([own, ours]) {
                    let prompt_tokens = f64::from(measured.prompt_tokens);
                    series[0].push(measured.first_token_ms);
                    series[1].push(prompt_tokens / measured.first_token_ms * 1e3);
                    series[2].push(measured.tokens_per_s);
                }
            }
            drop(neighbour);
            let [own, ours] = figures;
            let row = |what: &str, index: usize, digits: &str| {
                let (own, ours): (&Series, &Series) = (&own[index], &ours[index]);
                let ratio = format!("{:.3}", ours.ratio(own));
                table.row(&[format!("{what}{digits}"), own.to_string(), ours.to_string(), ratio]);
            };
            if work.answer == 1 {
                row("first token", 0, ", ms");
                row("prompt", 1, ", tokens/s");
            } else {
                row("decode", 2, ", tokens/s");
            }
            table.end();
        };
        let one = Work { clients: 1, words: 20, answer: ANSWER };
        compare("Reading a prompt of 512 words", &Work { words: 512, answer: 1, ..one }, false);
        compare("First token of a short prompt", &Work { answer: 1, ..one }, false);
        compare("One sequence", &one, false);
        compare("Eight sequences at once, together", &Work { clients: CLIENTS, ..one }, false);
        compare("One sequence, one other busy thread on the machine", &one, true);
    });
    drop(server);
    prefix::compare(&model, rounds);
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
struct Work {
    clients: usize,
    words: usize,
    answer: u32,
}

impl Work {
    /// Prompts that differ from each other and from those of other rounds and other work, from their
    /// first token on, so that nothing is cached.
    fn prompts(&self, round: usize) -> Vec<String> {
        const WORDS: [&str; 8] =
            ["river", "stone", "letter", "morning", "window", "garden", "paper", "road"];
        (0..self.clients)
            .map(|client| {
                let Self { clients, words, answer } = self;
                let mut prompt = format!("{round}.{client}.{clients}.{words}.{answer}. A story of");
                for index in 0..self.words {
                    prompt.push(' ');
                    prompt.push_str(WORDS[(index * 5 + round + client * 3 + index / 7) % 8]);
                }
                prompt.push_str(". Once upon a time");
                prompt
            })
            .collect()
    }
}

/// A thread of another program that never waits.
struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Neighbour {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut count = 0_u64;
            while !told.load(Ordering::Relaxed) {
                count = std::hint::black_box(count.wrapping_add(1));
            }
            count
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}
