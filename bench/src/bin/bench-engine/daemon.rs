//! The daemon, measured by its clients: from before the request's frame to each token's frame.

use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use serde_json::json;
use threadrunner_tests::{Frames, TestHome};

use crate::Measured;

/// A daemon with the model loaded.
pub(crate) struct Server {
    home: TestHome,
}

struct Client {
    prompt_tokens: u32,
    tokens: u32,
    sent: Instant,
    first: Instant,
    end: Instant,
}

impl Server {
    /// Starts a daemon of its own and loads the model.
    pub(crate) fn start(model: &Path) -> Self {
        Self::start_with(model, "")
    }

    /// The same with a `config.toml`.
    pub(crate) fn start_with(model: &Path, config: &str) -> Self {
        let model = model.canonicalize().expect("the model is there");
        let home = TestHome::new()
            .config(config)
            .with("RUST_LOG", "warn")
            .with("THREADRUNNER_BACKEND", "llama")
            .with("THREADRUNNER_MODEL_PATH", model);
        home.run(["load"]).expect(0);
        Self { home }
    }

    /// A connection to it.
    pub(crate) fn connect(&self) -> Frames {
        Frames::connect(&self.home.socket())
    }

    /// Answers the prompts at once, greedily, with `answer` tokens each.
    pub(crate) fn measure(&self, prompts: &[String], answer: u32) -> Measured {
        let together = Arc::new(Barrier::new(prompts.len()));
        let clients: Vec<_> = prompts
            .iter()
            .map(|prompt| {
                let (prompt, together) = (prompt.clone(), together.clone());
                let frames = self.connect();
                std::thread::spawn(move || ask(frames, &prompt, answer, &together))
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
            first_token_ms: (first - sent).as_secs_f64() * 1e3,
            tokens_per_s: f64::from(tokens) / (end - begun).as_secs_f64(),
        }
    }
}

fn ask(mut frames: Frames, prompt: &str, answer: u32, together: &Barrier) -> Client {
    together.wait();
    let sent = Instant::now();
    frames.send(&json!({
        "v": 1, "prompt": prompt, "raw": true, "temperature": 0, "max_tokens": answer,
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
                sent,
                first: first.unwrap_or(end),
                end,
            };
        }
        end = Instant::now();
        first.get_or_insert(end);
    }
}
