//! The daemon, measured by its clients: from before the request's frame to each token's frame.

use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use serde_json::json;
use threadrunner_tests::{Frames, TestHome};

use crate::Measured;
use crate::work::{Answered, Ask, Runtime};

/// When a client goes away that waits for a long prompt to be read.
const READING: Duration = Duration::from_millis(200);

/// A daemon with the model loaded.
pub(crate) struct Server {
    home: TestHome,
    /// What requests say about sampling.
    temperature: Option<f64>,
}

struct Client {
    prompt_tokens: u32,
    tokens: u32,
    /// What the engine says of its part of the time to the first token.
    prefill_ms: f64,
    sent: Instant,
    first: Instant,
    end: Instant,
}

impl Server {
    /// Starts a daemon of its own, with this `config.toml`, and loads the model.
    pub(crate) fn start(model: &Path, config: &str) -> Self {
        let model = model.canonicalize().expect("the model is there");
        let home = TestHome::new()
            .with("RUST_LOG", "warn")
            .with("THREADRUNNER_BACKEND", "llama")
            .with("THREADRUNNER_MODEL_PATH", model)
            .config(config);
        home.run(["load"]).expect(0);
        Self { home, temperature: Some(0.0) }
    }

    /// The daemon and its engine.
    pub(crate) fn pids(&self) -> [u32; 2] {
        let engine = self.home.status()["engines"][0]["pid"].as_u64().expect("an engine");
        [self.home.daemon_pid(), u32::try_from(engine).expect("a process id")]
    }

    /// A connection to it.
    pub(crate) fn connect(&self) -> Frames {
        Frames::connect(&self.home.socket())
    }

    /// Samples as for a request that says nothing about it.
    pub(crate) fn sampling(self) -> Self {
        Self { temperature: None, ..self }
    }

    /// Answers the prompts at once, greedily where nothing else was asked for, with `answer` tokens each.
    pub(crate) fn measure(&self, prompts: &[String], answer: u32) -> Measured {
        let together = Arc::new(Barrier::new(prompts.len()));
        let temperature = self.temperature;
        let clients: Vec<_> = prompts
            .iter()
            .map(|prompt| {
                let (prompt, together) = (prompt.clone(), together.clone());
                let frames = self.connect();
                std::thread::spawn(move || ask(frames, &prompt, answer, temperature, &together))
            })
            .collect();
        let clients: Vec<Client> =
            clients.into_iter().map(|client| client.join().expect("an answer")).collect();
        let first = clients.iter().map(|client| client.first).max().expect("a client");
        let end = clients.iter().map(|client| client.end).max().expect("a client");
        let begun = clients.iter().map(|client| client.first).min().expect("a client");
        let sent = clients.iter().map(|client| client.sent).min().expect("a client");
        let tokens: u32 = clients.iter().map(|client| client.tokens - 1).sum();
        Measured {
            prompt_tokens: clients.iter().map(|client| client.prompt_tokens).sum(),
            inside_ms: clients.iter().map(|client| client.prefill_ms).fold(0.0, f64::max),
            first_token_ms: (first - sent).as_secs_f64() * 1e3,
            tokens_per_s: f64::from(tokens) / (end - begun).as_secs_f64(),
        }
    }
}

impl Server {
    /// Goes away while `long` is read, and asks at once for `short`: what its first token then
    /// takes, in milliseconds.
    pub(crate) fn after_leaving(&self, long: &str, short: &str) -> f64 {
        let mut leaving = Frames::connect(&self.home.socket());
        leaving.send(&json!({ "v": 1, "prompt": long, "raw": true, "max_tokens": 1 }));
        std::thread::sleep(READING);
        let frames = Frames::connect(&self.home.socket());
        drop(leaving);
        let client = ask(frames, short, 1, self.temperature, &Barrier::new(1));
        (client.first - client.sent).as_secs_f64() * 1e3
    }
}

impl Runtime for Server {
    fn ask(&self, ask: &Ask<'_>) -> Answered {
        let mut frames = self.connect();
        let sent = Instant::now();
        frames.send(&json!({
            "v": 1, "prompt": ask.prompt, "raw": true, "temperature": 0, "max_tokens": ask.answer,
            "priority": if ask.batch { "batch" } else { "interactive" },
        }));
        let mut first = None;
        loop {
            let frame = frames.receive().expect("an answer has an end");
            assert!(frame.get("error").is_none(), "{frame}");
            let end = Instant::now();
            if frame["eos"] == true {
                let tokens = frame["usage"]["completion_tokens"].as_u64().expect("usage");
                return Answered { sent, first: first.unwrap_or(end), end, tokens };
            }
            first.get_or_insert(end);
        }
    }
}

fn ask(
    mut frames: Frames,
    prompt: &str,
    answer: u32,
    temperature: Option<f64>,
    together: &Barrier,
) -> Client {
    together.wait();
    let sent = Instant::now();
    frames.send(&json!({
        "v": 1, "prompt": prompt, "raw": true, "temperature": temperature, "max_tokens": answer,
    }));
    let mut first = None;
    let mut end = sent;
    loop {
        let frame = frames.receive().expect("an answer has an end");
        assert!(frame.get("error").is_none(), "{frame}");
        if frame["eos"] == true {
            let count = |key: &str| frame["usage"][key].as_u64().and_then(|n| n.try_into().ok());
            return Client {
                prompt_tokens: count("prompt_tokens").expect("usage"),
                tokens: count("completion_tokens").expect("usage"),
                prefill_ms: frame["timings"]["prefill_ms"].as_f64().expect("timings"),
                sent,
                first: first.unwrap_or(end),
                end,
            };
        }
        end = Instant::now();
        first.get_or_insert(end);
    }
}
