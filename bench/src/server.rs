//! The daemon as its clients see it: timed from before the request is sent to each token's frame.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use threadrunner_tests::{Frames, TestHome, eventually, process_is_alive};

use crate::work::{Answered, Ask, Runtime};

/// A daemon in a home of its own, with the model loaded; ends on drop.
#[derive(Debug)]
pub struct Server {
    home: TestHome,
    pids: [u32; 2],
    /// The temperature that requests ask for; `None` leaves it out.
    temperature: Option<f64>,
}

/// A finished request.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub text: String,
    /// Just before the request was sent.
    pub sent: Instant,
    /// When each piece of text arrived.
    pub pieces: Vec<Instant>,
    /// The frame that ended it, with usage and timings.
    pub ended: Value,
}

impl Reply {
    /// A count from the usage or the timings; 0 if absent.
    pub fn count(&self, part: &str, key: &str) -> u64 {
        self.ended[part][key].as_u64().unwrap_or(0)
    }

    /// Tokens in the answer.
    pub fn tokens(&self) -> u64 {
        self.count("usage", "completion_tokens")
    }

    /// When the first token arrived.
    pub fn first(&self) -> Instant {
        *self.pieces.first().unwrap_or(&self.sent)
    }

    /// When the last token arrived.
    pub fn last(&self) -> Instant {
        *self.pieces.last().unwrap_or(&self.sent)
    }
}

/// Sends a request and reads its whole answer. An error is the frame that says why there is none,
/// or `null` if the daemon is gone.
pub fn try_exchange(frames: &mut Frames, request: &Value) -> Result<Reply, Value> {
    let sent = Instant::now();
    frames.send(request);
    let (mut text, mut pieces) = (String::new(), Vec::new());
    loop {
        let frame = frames.receive().unwrap_or_default();
        if frame.is_null() || frame.get("error").is_some() {
            return Err(frame);
        }
        if frame["eos"] == true {
            return Ok(Reply { text, sent, pieces, ended: frame });
        }
        pieces.push(Instant::now());
        text.push_str(frame["token"].as_str().unwrap_or_default());
    }
}

/// The same for a request that must be answered.
///
/// # Panics
/// If it is refused or fails.
pub fn exchange(frames: &mut Frames, request: &Value) -> Reply {
    try_exchange(frames, request).unwrap_or_else(|error| panic!("{error}"))
}

impl Server {
    /// Starts a daemon with this `config.toml` and loads the model.
    ///
    /// # Panics
    /// If either fails.
    pub fn start(model: &Path, config: &str) -> Self {
        let model = model.canonicalize().expect("the model is there");
        let home = TestHome::new()
            .with("RUST_LOG", "warn")
            .with("THREADRUNNER_BACKEND", "llama")
            .with("THREADRUNNER_MODEL_PATH", model)
            .config(config);
        home.run(["load"]).expect(0);
        let frames = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
        let engine = frames[0]["data"]["models"][0]["pid"].as_u64().expect("an engine");
        let pids = [home.daemon_pid(), u32::try_from(engine).expect("a process id")];
        Self { home, pids, temperature: Some(0.0) }
    }

    /// The process ids of the daemon and its engine.
    pub fn pids(&self) -> [u32; 2] {
        self.pids
    }

    /// The home it lives in, for running programs against it.
    pub fn home(&self) -> &TestHome {
        &self.home
    }

    /// Connects to it, with no limit on how long an answer may take.
    ///
    /// # Panics
    /// If nothing listens.
    pub fn connect(&self) -> Frames {
        let stream = UnixStream::connect(self.home.socket()).expect("the daemon listens");
        let same = stream.try_clone().expect("a socket can be named twice");
        let frames = Frames::of(stream);
        same.set_read_timeout(None).expect("a timeout can be unset");
        frames
    }

    /// Makes requests leave the temperature out, so that the defaults sample.
    #[must_use]
    pub fn sampling(self) -> Self {
        Self { temperature: None, ..self }
    }

    /// Stops it while requests are under way; those get no answer.
    pub fn abandon(&self) {
        let mut frames = self.connect();
        frames.send(&json!({"v": 1, "id": 1, "op": "stop", "now": true}));
        frames.receive();
        for pid in self.pids {
            eventually("the daemon ends", || (!process_is_alive(pid)).then_some(()));
        }
    }

    /// A minimal request.
    pub fn request(&self, prompt: &str, answer: u32) -> Value {
        json!({
            "v": 1, "prompt": prompt, "raw": true, "temperature": self.temperature,
            "max_tokens": answer,
        })
    }
}

impl Runtime for Server {
    fn ask(&self, ask: &Ask) -> Option<Answered> {
        let mut request = self.request(&ask.prompt, ask.answer);
        request["priority"] = json!(ask.priority);
        let reply = try_exchange(&mut self.connect(), &request).ok()?;
        Some(Answered {
            sent: reply.sent,
            end: Instant::now(),
            prompt_tokens: reply.count("usage", "prompt_tokens"),
            tokens: reply.tokens(),
            pieces: reply.pieces,
        })
    }
}
