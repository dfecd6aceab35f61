//! A draft model, from the command line to the engine.

use std::fs;

use serde_json::{Value, json};
use threadrunner_tests::{Frames, TestHome};

/// A home with answers of 100 words and drafts that are right.
fn home() -> TestHome {
    TestHome::new().dummy(&json!({"words": 100, "step_ms": 2}))
}

fn models(home: &TestHome) -> Vec<Value> {
    let ps = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}))[0]["data"].clone();
    ps["models"].as_array().cloned().unwrap_or_default()
}

#[test]
fn a_prompt_with_a_draft_model_says_the_same_in_fewer_passes() {
    let home = home();
    let plain = home.run(["--json", "Hello"]).expect(0).json();
    let drafted = home.run(["--json", "--draft", "small", "Hello"]).expect(0).json();
    assert_eq!(plain["text"], drafted["text"]);
    assert!(drafted["timings"]["accepted"].as_u64().unwrap() > 40, "{drafted}");
    // Another draft model means another engine, and both are listed.
    let drafts: Vec<Value> = models(&home).iter().map(|model| model["draft"].clone()).collect();
    assert_eq!(drafts.len(), 2, "{drafts:?}");
    assert!(drafts.contains(&Value::Null));
    let small = home.root().join("models/small");
    assert!(drafts.contains(&small.to_str().unwrap().into()), "{drafts:?}");
    for command in ["ps", "status"] {
        let shown = home.run([command]).expect(0).stdout;
        assert!(shown.contains("dummy + small"), "{shown}");
    }
    // The job remembers its draft model.
    let job = drafted["job"].as_str().unwrap();
    let spec = fs::read(home.workspace(&format!("output/{job}/job.json"))).unwrap();
    let spec: Value = serde_json::from_slice(&spec).unwrap();
    assert_eq!(spec["model"]["draft"], small.to_str().unwrap());
    // A model is unloaded by its name, whatever its draft model.
    let unloaded = home.run(["unload", "--backend", "dummy"]).expect(0).stdout;
    assert_eq!(unloaded.lines().collect::<Vec<_>>(), ["dummy", "dummy"]);
    assert!(models(&home).is_empty());
}

#[test]
fn a_model_has_the_draft_model_of_the_configuration_unless_the_request_says_otherwise() {
    let home = TestHome::new().config(
        "[models.big]\ndraft = \"small\"\ndummy = { words = 100, step_ms = 2 }\n\
         [models.other]\ndummy = { words = 10 }\n",
    );
    let draft_of = |arguments: &[&str]| {
        home.run(arguments).expect(0).json()["draft"].as_str().map(str::to_owned)
    };
    let small = home.root().join("models/small").to_str().unwrap().to_owned();
    let tiny = home.root().join("models/tiny").to_str().unwrap().to_owned();
    assert_eq!(draft_of(&["load", "--json", "big"]), Some(small.clone()));
    assert_eq!(draft_of(&["load", "--json", "big", "--draft", "tiny"]), Some(tiny));
    assert_eq!(draft_of(&["load", "--json", "big", "--draft", "none"]), None);
    assert_eq!(draft_of(&["load", "--json", "other"]), None);
    let said = home.run(["-m", "big", "--json", "Hello"]).expect(0).json();
    assert!(said["timings"]["accepted"].as_u64().unwrap() > 0, "{said}");
    // The simplest form of a request takes it too.
    let request = json!({"v": 1, "prompt": "Hello", "model": "big", "draft": "none"});
    let answer = home.connect().ask(&request);
    assert!(answer.last().unwrap()["timings"]["drafted"].is_null(), "{answer:?}");
    assert_eq!(Frames::text(&answer), said["text"].as_str().unwrap());
}

#[test]
fn a_conversation_keeps_its_draft_model() {
    let home = home();
    let turn = |arguments: &[&str]| {
        let all = [&["--session", "trip", "--json"], arguments].concat();
        home.run(all).expect(0).json()["timings"]["drafted"].as_u64().unwrap_or(0)
    };
    assert!(turn(&["--draft", "small", "One"]) > 0);
    assert!(turn(&["Two"]) > 0);
    assert_eq!(turn(&["--draft", "none", "Three"]), 0);
    assert_eq!(turn(&["Four"]), 0);
}

#[test]
fn lines_of_a_batch_have_the_draft_model_of_the_batch_or_their_own() {
    let home = home();
    let lines = "{\"id\": \"a\", \"prompt\": \"One\"}\n\
                 {\"id\": \"b\", \"prompt\": \"Two\", \"draft\": \"none\"}\n";
    let done = home.run_with_input(["batch", "-", "--draft", "small"], lines.as_bytes()).expect(0);
    for line in done.stdout.lines() {
        let answer: Value = serde_json::from_str(line).unwrap();
        let drafted = answer["timings"]["drafted"].as_u64().unwrap_or(0);
        assert_eq!(drafted > 0, answer["id"] == "a", "{answer}");
    }
}
