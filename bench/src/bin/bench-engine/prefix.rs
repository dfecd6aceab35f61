//! Many requests that begin alike: what sharing the prefix gains.

use std::path::Path;
use std::time::Instant;

use serde_json::json;
use threadrunner_bench::server::Server;
use threadrunner_bench::text::words;
use threadrunner_bench::{Series, Table};

/// Requests in a round, all sent at its start.
const REQUESTS: usize = 200;
/// Words in the prefix, about as many tokens.
const PREFIX: usize = 490;
/// Words in each tail.
const TAIL: usize = 15;
/// Tokens in each answer.
const ANSWER: u32 = 16;

/// Measures the daemon with and without its prefix cache, in turn.
pub(crate) fn compare(model: &Path, rounds: usize) {
    let without = Server::start(model, "[engine]\nprefix_cache = false\n");
    let with = Server::start(model, "");
    let title = format!("{REQUESTS} requests with one prefix");
    let table = Table::new(&title, &["what", "without sharing", "sharing", "ratio"]);
    let mut rates: [Series; 2] = Default::default();
    let mut computed: [Series; 2] = Default::default();
    for round in 0..rounds {
        let prompts = prompts(round);
        for (place, server) in [&without, &with].into_iter().enumerate() {
            let (seconds, tokens) = answer(server, &prompts);
            rates[place].push(REQUESTS as f64 / seconds);
            computed[place].push(tokens as f64 / REQUESTS as f64);
        }
    }
    let row = |what: &str, [without, with]: &[Series; 2]| {
        let ratio = format!("{:.3}", with.ratio(without));
        table.row(&[what.to_owned(), without.to_string(), with.to_string(), ratio]);
    };
    row("requests/s", &rates);
    row("prompt tokens computed a request", &computed);
    table.end();
}

/// Sends all prompts and waits. Returns the seconds until all are answered, and how many prompt
/// tokens were computed. Uses one connection, because a load generator on the same processors
/// should cost little.
fn answer(server: &Server, prompts: &[String]) -> (f64, u64) {
    let mut frames = server.connect();
    let start = Instant::now();
    for (id, prompt) in prompts.iter().enumerate() {
        frames.send(&json!({
            "v": 1, "id": id, "op": "run", "prompt": prompt, "raw": true, "stream": false,
            "temperature": 0, "max_tokens": ANSWER,
        }));
    }
    let (mut ended, mut computed) = (0, 0);
    while ended < prompts.len() {
        let frame = frames.receive().expect("every request has an end");
        assert!(frame.get("error").is_none(), "{frame}");
        if frame["eos"] == true {
            let count = |key: &str| frame["usage"][key].as_u64().expect("usage");
            computed += count("prompt_tokens") - count("cached_tokens");
            ended += 1;
        }
    }
    (start.elapsed().as_secs_f64(), computed)
}

/// A different prefix each round, so that the cache holds nothing useful when a round begins.
fn prompts(round: usize) -> Vec<String> {
    let prefix = format!("List {round}: {}.", words(round, PREFIX));
    (0..REQUESTS)
        .map(|tail| format!("{prefix} Number {tail}: {}. And then", words(tail, TAIL)))
        .collect()
}
