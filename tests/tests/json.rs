//! What `--json` prints, key by key: `golden/` holds it, and `docs/json.md` shows the same.
//!
//! After an intended change, `THREADRUNNER_GOLDEN=write` rewrites both.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use threadrunner_tests::{TestHome, eventually};

/// Every document, in the order of the page.
const ALL: [&str; 19] = [
    "answer",
    "submitted",
    "error",
    "record",
    "failed",
    "jobs",
    "result",
    "removed",
    "models",
    "chosen",
    "loaded",
    "unloaded",
    "kept",
    "ps",
    "status",
    "sessions",
    "session",
    "undone",
    "config",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn file(name: &str) -> PathBuf {
    root().join("tests/golden").join(format!("{name}.json"))
}

fn is_to_be_written() -> bool {
    std::env::var_os("THREADRUNNER_GOLDEN").is_some_and(|value| value == "write")
}

/// The document without what differs each time: ids, times, paths, measurements.
fn normal(home: &TestHome, key: &str, value: Value) -> Value {
    match value {
        Value::Object(object) => {
            // What an engine says of itself depends on the machine.
            let of_machine = matches!(key, "engine" | "info");
            let object = object.into_iter().map(|(name, value)| {
                let value = match value {
                    Value::Number(_) if of_machine => json!(0),
                    Value::String(_) if of_machine || name == "log" || name == "version" => {
                        json!("...")
                    }
                    value => normal(home, &name, value),
                };
                (name, value)
            });
            object.collect()
        }
        Value::Array(values) => values.into_iter().map(|value| normal(home, key, value)).collect(),
        Value::Number(number) => {
            let measured = ["_s", "_ms", "_bytes"].iter().any(|unit| key.ends_with(unit));
            match measured || key == "pid" {
                true if number.is_f64() => json!(0.5),
                true => json!(0),
                false => Value::Number(number),
            }
        }
        Value::String(_) if key.ends_with("_at") => json!("2026-01-31T09:30:00.000000Z"),
        Value::String(text) => {
            let root = home.root().to_str().expect("a home's path is UTF-8");
            Value::String(without_ids(&text.replace(root, "/home/ann/.threadrunner")))
        }
        plain => plain,
    }
}

/// The text with the same id in place of every id.
fn without_ids(text: &str) -> String {
    let part = |c: char| c.is_ascii_digit() || c == '_';
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let end = rest[start..].find(|c| !part(c)).map_or(rest.len(), |length| start + length);
        out.push_str(&rest[..start]);
        let found = &rest[start..end];
        out.push_str(if found.len() > 16 { "1767225600000000_4242" } else { found });
        rest = &rest[end..];
    }
    out + rest
}

fn compare(home: &TestHome, name: &str, value: Value) {
    assert!(ALL.contains(&name), "{name} is not on the page");
    let text = serde_json::to_string_pretty(&normal(home, "", value)).expect("JSON") + "\n";
    if is_to_be_written() {
        fs::write(file(name), &text).expect("a golden file can be written");
    }
    let golden = fs::read_to_string(file(name)).unwrap_or_default();
    assert_eq!(text, golden, "{name}: is the change meant? See the head of this file");
}

#[test]
fn every_document_is_as_it_was() {
    let home = TestHome::new().config("");
    fs::create_dir(home.root().join("models")).unwrap();
    fs::write(home.root().join("models/small.gguf"), "GGUF").unwrap();
    let json = |arguments: &[&str]| home.run(arguments).expect(0).json();
    compare(&home, "answer", json(&["--json", "Hello"]));
    let refused = home.run(["result", "--json", "4711"]).expect(7).json();
    compare(&home, "error", refused);
    let submitted = json(&["--json", "--detach", "--tag", "night", "Hello"]);
    let id = submitted["job"].as_str().unwrap().to_owned();
    compare(&home, "submitted", submitted);
    compare(&home, "record", json(&["wait", "--json", &id]));
    compare(&home, "jobs", json(&["jobs", "--json", "--limit", "1"]));
    compare(&home, "result", json(&["result", "--json", &id]));
    compare(&home, "removed", json(&["rm", "--json", &id]));
    compare(&home, "models", json(&["models", "--json"]));
    compare(&home, "chosen", json(&["models", "default", "--json"]));
    compare(&home, "loaded", json(&["load", "--json", "--pin"]));
    compare(&home, "ps", json(&["ps", "--json"]));
    compare(&home, "status", json(&["status", "--json"]));
    compare(&home, "kept", json(&["unload", "--json"]));
    compare(&home, "unloaded", json(&["unload", "--json", "dummy"]));
    json(&["--json", "--session", "trip", "I am in Lisbon."]);
    compare(&home, "sessions", json(&["sessions", "--json"]));
    compare(&home, "session", json(&["sessions", "show", "--json", "trip"]));
    compare(&home, "undone", json(&["sessions", "undo", "--json", "trip"]));
    compare(&home, "config", json(&["config", "check", "--json"]));

    let home = TestHome::new().dummy(&json!({"fail_after": 2}));
    let id = home.run(["--detach", "Hello"]).expect(0).stdout;
    let failed = home.run(["wait", "--json", id.trim()]).expect(6).json();
    compare(&home, "failed", failed);
}

#[test]
fn an_error_about_a_job_names_it_and_a_running_job_has_a_model() {
    let home = TestHome::new().dummy(&json!({"step_ms": 5, "words": 100_000}));
    let id = home.run(["--detach", "Hello"]).expect(0).stdout.trim().to_owned();
    eventually("the job runs", || {
        let list = home.run(["jobs", "--json"]).expect(0).json();
        (list["jobs"][0]["state"] == "running").then_some(())
    });
    let listed = home.run(["jobs", "--json", "--model", "dummy"]).expect(0).json();
    assert_eq!(listed["jobs"][0]["model"], "dummy", "{listed}");
    assert!(home.run(["jobs"]).expect(0).stdout.contains("dummy"));
    home.run(["cancel", &id]).expect(0);
    eventually("it is canceled", || (home.jobs_in("failed").len() == 1).then_some(()));
    let refused = home.run(["result", "--json", &id]).expect(6).json();
    assert_eq!(refused["job"], id.as_str(), "{refused}");
    assert_eq!(refused["error"]["message"], format!("job {id} was canceled"), "{refused}");
}

#[test]
fn the_page_shows_every_document() {
    let path = root().join("docs/json.md");
    let page = fs::read_to_string(&path).unwrap();
    let mut written = String::new();
    let mut rest = page.as_str();
    for name in ALL {
        let mark = format!("<!-- golden: {name} -->\n```json\n");
        let (before, after) = rest.split_once(&mark).expect(name);
        let (shown, after) = after.split_once("```\n").expect("a block ends");
        let golden = fs::read_to_string(file(name)).unwrap();
        if !is_to_be_written() {
            assert_eq!(shown, golden, "{name} in docs/json.md");
        }
        written.push_str(&format!("{before}{mark}{golden}```\n"));
        rest = after;
    }
    if is_to_be_written() {
        fs::write(&path, written + rest).unwrap();
    }
}

/// An error, a model and a size have the same form in every document.
#[test]
fn a_key_means_the_same_everywhere() {
    fn check(key: &str, value: &Value) {
        match (key, value) {
            ("error", value) => {
                let keys = value.as_object().expect("an error is an object");
                assert!(keys["code"].is_string() && keys["message"].is_string(), "{value}");
            }
            ("model", value) => assert!(value.is_string(), "a model is told by its name: {value}"),
            ("bytes" | "size" | "memory_budget" | "memory_used", _) => {
                panic!("a size says that it is bytes: {key}")
            }
            ("memory", value) => {
                let mut sizes = value.as_object().into_iter().flatten();
                assert!(sizes.all(|(key, _)| key.ends_with("_bytes")), "{value}");
            }
            (key, value) if key.ends_with("_bytes") => assert!(value.is_u64(), "{key}: {value}"),
            (key, value) if key.ends_with("_at") => assert!(value.is_string(), "{key}: {value}"),
            _ => {}
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            check(key, value);
        }
        for value in value.as_array().into_iter().flatten() {
            check("", value);
        }
    }
    for name in ALL {
        let text = fs::read_to_string(file(name)).unwrap();
        check("", &serde_json::from_str(&text).unwrap());
    }
}
