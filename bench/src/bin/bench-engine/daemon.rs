//! The daemon, measured by its clients: from before the request's frame to each token's frame.

use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
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

/// What came of a request.
pub(crate) struct Reply {
    pub(crate) text: String,
    pub(crate) sent: Instant,
    /// When the first token came, and the last.
    pub(crate) first: Instant,
    pub(crate) last: Instant,
    /// The frame that ended it: usage and timings.
    pub(crate) ended: Value,
}

impl Reply {
    /// A count of the answer's usage or of its timings; 0 where none is told.
    pub(crate) fn count(&self, part: &str, key: &str) -> u64 {
        self.ended[part][key].as_u64().unwrap_or(0)
    }

    /// Tokens of the answer.
    pub(crate) fn tokens(&self) -> u64 {
        self.count("usage", "completion_tokens")
    }
}

/// Sends a request and takes in all of its answer.
///
/// # Panics
/// When it is refused or fails.
pub(crate) fn exchange(frames: &mut Frames, request: &Value) -> Reply {
    let sent = Instant::now();
    frames.send(request);
    let (mut text, mut first, mut last) = (String::new(), None, sent);
    loop {
        let frame = frames.receive().expect("an answer has an end");
        assert!(frame.get("error").is_none(), "{frame}");
        if frame["eos"] == true {
            return Reply { text, sent, first: first.unwrap_or(last), last, ended: frame };
        }
        last = Instant::now();
        first.get_or_insert(last);
        text.push_str(frame["token"].as_str().unwrap_or_default());
    }
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
        let frames = self.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
        let engine = frames[0]["data"]["models"][0]["pid"].as_u64().expect("an engine");
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
        let together = Barrier::new(prompts.len());
        let replies: Vec<Reply> = thread::scope(|scope| {
            let clients: Vec<_> = prompts
                .iter()
                .map(|prompt| {
                    let mut frames = self.connect();
                    let (together, request) = (&together, self.request(prompt, answer));
                    scope.spawn(move || {
                        together.wait();
                        exchange(&mut frames, &request)
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().expect("an answer")).collect()
        });
        let first = replies.iter().map(|reply| reply.first).max().expect("a client");
        let last = replies.iter().map(|reply| reply.last).max().expect("a client");
        let begun = replies.iter().map(|reply| reply.first).min().expect("a client");
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

    /// Goes away while `long` is read, and asks at once for `short`: what its first token then
    /// takes, in milliseconds.
    pub(crate) fn after_leaving(&self, long: &str, short: &str) -> f64 {
        let mut leaving = self.connect();
        leaving.send(&json!({ "v": 1, "prompt": long, "raw": true, "max_tokens": 1 }));
        thread::sleep(READING);
        let mut frames = self.connect();
        drop(leaving);
        let reply = exchange(&mut frames, &self.request(short, 1));
        (reply.first - reply.sent).as_secs_f64() * 1e3
    }

    fn request(&self, prompt: &str, answer: u32) -> Value {
        json!({
            "v": 1, "prompt": prompt, "raw": true, "temperature": self.temperature,
            "max_tokens": answer,
        })
    }
}

impl Runtime for Server {
    fn ask(&self, ask: &Ask<'_>) -> Answered {
        let request = json!({
            "v": 1, "prompt": ask.prompt, "raw": true, "temperature": 0, "max_tokens": ask.answer,
            "priority": if ask.batch { "batch" } else { "interactive" },
        });
        let reply = exchange(&mut self.connect(), &request);
        let Reply { sent, first, .. } = reply;
        Answered { sent, first, end: Instant::now(), tokens: reply.tokens() }
    }
}
