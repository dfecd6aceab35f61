//! The second turn of a long conversation after its engine has ended: restoring the saved state,
//! compared with reading it all again.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use threadrunner_bench::text::words;
use threadrunner_bench::{Series, Table};
use threadrunner_core::engine_protocol::ENGINE_ENVIRONMENT;
use threadrunner_tests::{Frames, program};

/// Words in the first turn's prompt: about 2,000 tokens together with its answer.
const WORDS: usize = 1_920;
/// Tokens in the first answer.
const ANSWER: u32 = 64;

/// The title of the table.
pub(crate) const TITLE: &str = "Second turn of a conversation of 2,000 tokens, after unload";

/// An engine process, driven as the daemon drives it.
struct Engine {
    child: Child,
    frames: Frames,
}

/// A finished turn.
struct Turn {
    text: String,
    prompt_tokens: u64,
    restored_tokens: u64,
    first_token_ms: f64,
}

/// Measures the second turn with and without the saved state, in turn.
pub(crate) fn compare(model: &Path, rounds: usize) {
    let model = model.canonicalize().expect("the model is there");
    let table = Table::new(TITLE, &["what", "read again", "restored", "ratio"]);
    let mut first: [Series; 3] = Default::default();
    let (mut saving, mut ending, mut megabytes) =
        (Series::default(), Series::default(), Series::default());
    let (mut tokens, mut new) = (Series::default(), Series::default());
    for round in 0..rounds {
        let states = tempfile::tempdir().expect("a directory can be made");
        let begun = beginning(round);
        let mut engine = Engine::start(&model, Some(states.path()));
        let answer = engine.turn(&begun, ANSWER).text;
        saving.push(engine.end());
        let file = fs::metadata(states.path().join("talk.state")).expect("it was saved");
        megabytes.push(file.len() as f64 / 1e6);

        let second = format!("{begun}{answer}\nAnother story, of a lighthouse, begins:");
        let mut engine = Engine::start(&model, Some(states.path()));
        let restored = engine.turn(&second, 1);
        // By now its cells are in the cache.
        let third = engine.turn(&format!("{begun}{answer}\nA tale, of a mountain, begins:"), 1);
        engine.end();
        let mut engine = Engine::start(&model, None);
        let again = engine.turn(&second, 1);
        ending.push(engine.end());
        assert_eq!((again.restored_tokens, again.prompt_tokens), (0, restored.prompt_tokens));
        assert!(restored.restored_tokens > 1_900, "{} tokens", restored.restored_tokens);
        tokens.push(again.prompt_tokens as f64);
        new.push((restored.prompt_tokens - restored.restored_tokens) as f64);
        for (series, turn) in first.iter_mut().zip([again, restored, third]) {
            series.push(turn.first_token_ms);
        }
    }
    let [again, restored, third] = first;
    let row = |what: &str, one: &Series, other: &Series| {
        let ratio = format!("{:.3}", other.ratio(one));
        table.row(&[what.into(), one.to_string(), other.to_string(), ratio]);
    };
    row("first token, ms", &again, &restored);
    row("the same, still in the cache, ms", &again, &third);
    row("tokens of the prompt that are read", &tokens, &new);
    row("from the order to exit to the exit, the first time with saving, ms", &ending, &saving);
    table.row(&["state, MB".into(), "".into(), megabytes.to_string(), "".into()]);
    table.end();
}

impl Engine {
    fn start(model: &Path, states: Option<&Path>) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let child = Command::new(program("threadrunner-engine"))
            .envs(ENGINE_ENVIRONMENT.iter().copied())
            .env("RUST_LOG", "warn")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .expect("the engine can be started");
        let mut engine = Self { child, frames: Frames::of(ours) };
        let state = states.map(|path| json!({"path": path, "max_bytes": 1 << 30}));
        let mut load = json!({
            "op": "load", "v": 1, "model": {"backend": "llama", "path": model},
        });
        if let Some(state) = state {
            load["state"] = state;
        }
        engine.frames.send(&load);
        loop {
            let event = engine.frames.receive().expect("the engine loads");
            assert!(event["event"] != "load_failed", "{event}");
            if event["event"] == "ready" {
                return engine;
            }
        }
    }

    /// Answers `prompt` greedily, as a turn of the one conversation.
    fn turn(&mut self, prompt: &str, answer: u32) -> Turn {
        // As for the other tables, let llama.cpp's threads go to sleep.
        std::thread::sleep(Duration::from_millis(50));
        let sent = Instant::now();
        self.frames.send(&json!({
            "op": "generate", "id": 1, "input": {"raw": prompt}, "priority": "interactive",
            "params": {"temperature": 0, "max_tokens": answer}, "session": "talk",
        }));
        let (mut text, mut first) = (String::new(), None);
        loop {
            let event: Value = self.frames.receive().expect("the engine answers");
            match event["event"].as_str() {
                Some("text") => {
                    first.get_or_insert_with(|| sent.elapsed());
                    text.push_str(event["text"].as_str().expect("a text"));
                }
                Some("finished") => {
                    let count = |key: &str| event["usage"][key].as_u64().unwrap_or(0);
                    let first = first.unwrap_or_else(|| sent.elapsed());
                    return Turn {
                        text,
                        prompt_tokens: count("prompt_tokens"),
                        restored_tokens: count("restored_tokens"),
                        first_token_ms: first.as_secs_f64() * 1e3,
                    };
                }
                Some("failed") => panic!("{event}"),
                _ => {}
            }
        }
    }

    /// Tells it to exit and waits. Returns how long that took, in milliseconds.
    fn end(self) -> f64 {
        let Self { mut child, frames } = self;
        let start = Instant::now();
        drop(frames);
        let status = child.wait().expect("it ends");
        assert!(status.success(), "{status}");
        start.elapsed().as_secs_f64() * 1e3
    }
}

/// The start of a conversation, different each round.
fn beginning(round: usize) -> String {
    format!("Conversation {round}: {}.\nA story of all of these begins:", words(round, WORDS))
}
