//! What the daemon adds to llama.cpp: the same prompts, model, threads and compiler flags through
//! the daemon's socket and through a plain loop over llama.cpp in this process, in turn.
//!
//! `bench-engine --model FILE [--rounds N] [--only TITLE]`. Two flags replace the usual tables:
//! `--prefix` measures what sharing a prefix gains, at minutes a round; `--sameness` counts the
//! greedy answers that settings and other requests change. Expects release builds of the three
//! programs, with llama, beside it.

mod daemon;
mod floor;
mod guessing;
mod prefix;
mod session;
mod wakeups;

use std::path::PathBuf;

use threadrunner_bench::server::Server;
use threadrunner_bench::text::words;
use threadrunner_bench::{Neighbour, Series, Table, flag, has_flag, settle, text_flag};

/// Tokens to generate when measuring the rate.
const ANSWER: u32 = 128;
/// How many clients ask at once.
const CLIENTS: usize = 8;

/// What one side took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// Tokens in one prompt.
    pub(crate) prompt_tokens: u64,
    /// From the request to the first token, in milliseconds.
    pub(crate) first_token_ms: f64,
    /// The part of that after the engine received the request.
    pub(crate) inside_ms: f64,
    /// Tokens a second after the first token, of all sequences together.
    pub(crate) tokens_per_s: f64,
}

fn main() {
    let Some(model) = text_flag("--model").map(PathBuf::from) else {
        panic!("--model FILE is missing");
    };
    let rounds = flag("--rounds", 5);
    let only = text_flag("--only");
    if has_flag("--prefix") {
        prefix::compare(&model, rounds);
        return;
    }
    if has_flag("--sameness") {
        guessing::sameness(&model, rounds);
        return;
    }
    let wanted = |title: &str| only.as_ref().is_none_or(|only| title.contains(only.as_str()));
    guessing::compare(&model, rounds, wanted);
    if wanted(session::TITLE) {
        session::compare(&model, rounds);
    }
    if wanted(wakeups::TITLE) {
        wakeups::count(&model, rounds);
    }
    // The same prompts are asked more than once and must be read each time.
    let uncached = "[engine]\nprefix_cache = false\n";
    let server = Server::start(&model, uncached);
    let relaxed = format!("durability = \"relaxed\"\n{uncached}");
    let relaxed = Server::start(&model, &relaxed);
    floor::with_loop(&model, |floor| {
        let compare = |title: &str, server: &Server, work: &Work, busy: bool| {
            if !wanted(title) {
                return;
            }
            let table = Table::new(title, &["what", "one process", "daemon", "ratio"]);
            let neighbour = busy.then(Neighbour::start);
            let mut figures: [[Series; 4]; 2] = Default::default();
            for round in 0..rounds * work.repeat {
                let prompts = work.prompts(round);
                settle();
                let own = floor.measure(&prompts, work.answer);
                settle();
                let ours = daemon::measure(server, &prompts, work.answer);
                assert_eq!(own.prompt_tokens, ours.prompt_tokens, "not the same prompt");
                for (series, measured) in figures.iter_mut().zip([own, ours]) {
                    let prompt_tokens = measured.prompt_tokens as f64;
                    series[0].push(measured.first_token_ms);
                    series[1].push(prompt_tokens / measured.first_token_ms * 1e3);
                    series[2].push(measured.tokens_per_s);
                    series[3].push(measured.inside_ms);
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
                let later = ours[0].median() - own[0].median();
                table.row(&["later by, ms".into(), "".into(), "".into(), format!("{later:.2}")]);
                row("of that, in the engine", 3, ", ms");
                row("prompt", 1, ", tokens/s");
            } else {
                row("decode", 2, ", tokens/s");
            }
            table.end();
        };
        let one = Work { clients: 1, words: 20, answer: ANSWER, repeat: 1 };
        let long = Work { words: 512, answer: 1, ..one };
        let short = Work { answer: 1, repeat: 8, ..one };
        let eight = Work { clients: CLIENTS, ..one };
        compare("Reading a prompt of 512 words", &server, &long, false);
        compare("First token of a short prompt", &server, &short, false);
        compare("The same, `durability = \"relaxed\"`", &relaxed, &short, false);
        compare("One sequence", &server, &one, false);
        compare("Eight sequences at once, together", &server, &eight, false);
        if only.is_none() {
            cancel(&server, &long, &short, rounds);
        }
        compare("One sequence, one other busy thread on the machine", &server, &one, true);
        let usual = Server::start(&model, "").sampling();
        compare("The same with nothing configured, sampled", &usual, &one, true);
    });
    drop((server, relaxed));
}

/// Measures how soon another request gets the slot and the processors of a client that goes away.
fn cancel(server: &Server, long: &Work, short: &Work, rounds: usize) {
    let title = "A client goes away while its prompt of 512 words is read";
    let table = Table::new(title, &["first token of the next, short prompt", "ms"]);
    let (mut usual, mut after) = (Series::default(), Series::default());
    for round in 0..rounds * short.repeat {
        let (long, short) = (long.prompts(round), short.prompts(round));
        settle();
        usual.push(daemon::measure(server, &short, 1).first_token_ms);
        settle();
        after.push(daemon::after_leaving(server, &long[0], &short[0]));
    }
    table.row(&["nobody else was there".into(), usual.to_string()]);
    table.row(&["sent as the other goes away".into(), after.to_string()]);
    table.row(&["later by".into(), format!("{:.2}", after.median() - usual.median())]);
    table.end();
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
struct Work {
    clients: usize,
    words: usize,
    answer: u32,
    /// How often it is measured a round. Short work is repeated more, because it varies more.
    repeat: usize,
}

impl Work {
    /// Prompts that differ from each other and between rounds, so that nothing is cached.
    fn prompts(&self, round: usize) -> Vec<String> {
        let story = |client| {
            let words = words(round + client * 3, self.words);
            // The difference comes first, so that almost nothing is shared.
            format!("{client} in {round}, Loop: a story about {words}. Once upon a time")
        };
        (0..self.clients).map(story).collect()
    }
}
