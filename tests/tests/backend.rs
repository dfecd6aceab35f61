//! The default backend is the engine's: command line and daemon link none, and ask it.

#![expect(clippy::unwrap_used, reason = "this is all test; clippy sees only that of #[test]")]

use std::fs;

use serde_json::json;
use threadrunner_tests::{Frames, TestHome};

/// An engine that answers whatever it is asked.
const ENGINE: &str = r#"load = hear()
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
    let has_llama = if has_llama { "True" } else { "False" };
    let models = home.root().join("models");
    fs::create_dir_all(&models).unwrap();
    fs::write(models.join("only.gguf"), "GGUF").unwrap();
    // Others go to the real engine: without llama, or for the dummy.
    home.engine_in_python("\"llama\"", &ENGINE.replace("HAS_LLAMA", has_llama))
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
