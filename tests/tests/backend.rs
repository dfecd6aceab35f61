//! The default backend is the engine's: command line and daemon link none, and ask it.

#![expect(clippy::unwrap_used, reason = "this is all test; clippy sees only that of #[test]")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use threadrunner_tests::{Frames, TestHome, program};

/// An engine that answers whatever it is asked. Without llama, or for the dummy, it is the real one.
const ENGINE: &str = r#"#!/usr/bin/env python3
import json, os, socket, struct, sys

daemon = socket.socket(fileno=os.dup(0))
if b'"llama"' not in daemon.recv(65536, socket.MSG_PEEK):
    os.execv(REAL, [REAL])
stream = daemon.makefile("rb")

def hear():
    head = stream.read(4)
    if len(head) < 4:
        os._exit(0)
    return json.loads(stream.read(struct.unpack("<I", head)[0]))

def say(event, **keys):
    data = json.dumps({"event": event, **keys}).encode()
    daemon.sendall(struct.pack("<I", len(data)) + data)

load = hear()
if not HAS_LLAMA:
    say("load_failed", failure={"code": "backend_unavailable", "message": "no llama"})
    sys.exit()
if "path" not in load["model"]:
    say("load_failed", failure={"code": "no_model", "message": "no model"})
    sys.exit()
if load["op"] == "size":
    say("sized", wanted={}, least={})
    sys.exit()
say("ready", model={"name": "fake", "n_ctx": 4096, "n_batch": 512, "n_seq_max": 4}, engine={})
while True:
    id = hear()["id"]
    say("text", id=id, text="from llama")
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    timings = {"prefill_ms": 1.0, "decode_ms": 1.0}
    say("finished", id=id, finish_reason="stop", usage=usage, timings=timings)
"#;

/// A home that chooses no backend, with such an engine and one model.
fn home(has_llama: bool) -> TestHome {
    let home = TestHome::new().config("").with("THREADRUNNER_BACKEND", "");
    let real = format!("{:?}", program("threadrunner-engine").display().to_string());
    let has_llama = if has_llama { "True" } else { "False" };
    let engine = home.root().join("engine");
    fs::write(&engine, ENGINE.replace("REAL", &real).replace("HAS_LLAMA", has_llama)).unwrap();
    fs::set_permissions(&engine, fs::Permissions::from_mode(0o755)).unwrap();
    let models = home.root().join("models");
    fs::create_dir_all(&models).unwrap();
    fs::write(models.join("only.gguf"), "GGUF").unwrap();
    home.with("THREADRUNNER_ENGINE", engine.to_str().unwrap())
}

/// What a client gets that names neither backend nor model: the daemon chooses.
fn answer_of_the_daemon(home: &TestHome) -> String {
    let request = json!({"v": 1, "id": 1, "op": "run", "prompt": "Hello"});
    Frames::text(&home.connect().ask(&request))
}

#[test]
fn with_an_engine_that_has_llama_everybody_uses_llama() {
    let home = home(true);
    assert_eq!(home.run(["Hello"]).expect(0).stdout, "from llama\n");
    assert_eq!(answer_of_the_daemon(&home), "from llama");
    let doctor = home.run(["doctor"]).stdout;
    assert!(doctor.contains("only.gguf"), "{doctor}");
}

#[test]
fn with_an_engine_without_llama_everybody_uses_the_dummy() {
    let home = home(false);
    assert!(home.run(["Hello"]).expect(0).stdout.starts_with("lorem ipsum"));
    assert!(answer_of_the_daemon(&home).starts_with("lorem ipsum"));
    let doctor = home.run(["doctor"]).stdout;
    assert!(doctor.contains("the dummy backend needs none"), "{doctor}");
}

#[test]
fn an_engine_is_asked_once() {
    let home = TestHome::new().with("THREADRUNNER_BACKEND", "");
    home.start_daemon();
    let note = home.root().join("cache/engine-backend");
    let built = if cfg!(feature = "llama") { "llama " } else { "dummy " };
    let noted = fs::read_to_string(&note).unwrap();
    assert!(noted.starts_with(built), "{noted}");
    // The note counts as long as the program is the same.
    let other = if cfg!(feature = "llama") { "dummy " } else { "llama " };
    fs::write(&note, noted.replacen(built, other, 1)).unwrap();
    let finished = home.run(["Hello"]);
    match cfg!(feature = "llama") {
        true => assert!(finished.expect(0).stdout.starts_with("lorem ipsum")),
        false => assert!(finished.expect(3).stderr.contains("model")),
    }
}
