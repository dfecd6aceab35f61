//! The daemon's side of the comparison with the plain loop.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use serde_json::json;
use threadrunner_bench::server::{Reply, Server, exchange};

use crate::Measured;

/// How long after sending a long prompt its client goes away.
const READING: Duration = Duration::from_millis(200);

/// Answers the prompts at once with `answer` tokens each, as the server's requests sample.
pub(crate) fn measure(server: &Server, prompts: &[String], answer: u32) -> Measured {
    let together = Barrier::new(prompts.len());
    let replies: Vec<Reply> = thread::scope(|scope| {
        let clients: Vec<_> = prompts
            .iter()
            .map(|prompt| {
                let mut frames = server.connect();
                let (together, request) = (&together, server.request(prompt, answer));
                scope.spawn(move || {
                    together.wait();
                    exchange(&mut frames, &request)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("an answer")).collect()
    });
    let first = replies.iter().map(Reply::first).max().expect("a client");
    let last = replies.iter().map(Reply::last).max().expect("a client");
    let begun = replies.iter().map(Reply::first).min().expect("a client");
    let sent = replies.iter().map(|reply| reply.sent).min().expect("a client");
    let tokens: u64 = replies.iter().map(|reply| reply.tokens() - 1).sum();
    let inside_ms = |reply: &Reply| reply.ended["timings"]["prefill_ms"].as_f64();
    Measured {
        prompt_tokens: replies.iter().map(|reply| reply.count("usage", "prompt_tokens")).sum(),
        inside_ms: replies.iter().filter_map(inside_ms).fold(0.0, f64::max),
        first_token_ms: (first - sent).as_secs_f64() * 1e3,
        tokens_per_s: tokens as f64 / (last - begun).as_secs_f64(),
    }
}

/// Disconnects while `long` is being read and at once asks for `short`. Returns the time to its
/// first token, in milliseconds.
pub(crate) fn after_leaving(server: &Server, long: &str, short: &str) -> f64 {
    let mut leaving = server.connect();
    leaving.send(&json!({ "v": 1, "prompt": long, "raw": true, "max_tokens": 1 }));
    thread::sleep(READING);
    let mut frames = server.connect();
    drop(leaving);
    let reply = exchange(&mut frames, &server.request(short, 1));
    (reply.first() - reply.sent).as_secs_f64() * 1e3
}
