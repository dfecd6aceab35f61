//! Several models in little memory: which stay, which go, which wait, which are refused.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use threadrunner_tests::{Finished, Frames, TestHome, eventually, process_is_alive};

/// A home whose dummy models take 400 MB each, with `memory` as the budget.
fn home(memory: &str) -> TestHome {
    let dummies = ["a", "b", "c"].map(|name| {
        format!("[models.{name}]\ndummy = {{ memory_bytes = 400_000_000, step_ms = 2 }}\n")
    });
    TestHome::new().config(&format!("memory_budget = \"{memory}\"\n{}", dummies.concat()))
}

fn ask(home: &TestHome, model: &str) -> Finished {
    home.run(["-m", model, "Hello"])
}

fn ps(home: &TestHome) -> Value {
    home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}))[0]["data"].clone()
}

fn loaded(home: &TestHome) -> Vec<String> {
    let models = ps(home)["models"].as_array().cloned().unwrap_or_default();
    models.iter().map(|model| model["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn pid(home: &TestHome, name: &str) -> Option<u32> {
    let models = ps(home)["models"].as_array().cloned().unwrap_or_default();
    let model = models.iter().find(|model| model["name"] == name)?;
    model["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
}

#[test]
fn two_models_within_the_budget_stay_and_a_third_ends_the_least_recently_used() {
    let home = home("1 GB");
    for model in ["a", "b", "a"] {
        ask(&home, model).expect(0);
    }
    assert_eq!(loaded(&home), ["a", "b"]);
    let used = ps(&home);
    assert_eq!(
        (&used["memory_budget_bytes"], &used["memory_used_bytes"]),
        (&json!(1e9 as u64), &json!(8e8 as u64))
    );
    assert_eq!(used["models"][0]["size_bytes"], 400_000_000);
    let gone = pid(&home, "b").unwrap();
    ask(&home, "c").expect(0);
    assert_eq!(loaded(&home), ["a", "c"]);
    assert!(!process_is_alive(gone));
    let shown = home.run(["ps"]).expect(0).stdout;
    assert!(shown.contains("800 MB of 1.0 GB for models"), "{shown}");
    assert!(home.run(["status"]).expect(0).stdout.contains("800 MB of 1.0 GB"));
}

#[test]
fn a_model_in_use_is_not_unloaded_and_the_job_for_another_waits_for_it() {
    let home = home("500 MB");
    let mut busy = home.connect();
    let long = "word ".repeat(300);
    busy.send(&json!({"v": 1, "id": 1, "op": "run", "prompt": long, "model": "a"}));
    while !busy.receive().unwrap()["token"].is_string() {}
    let works = pid(&home, "a").unwrap();
    let mut waits = home.connect();
    waits.send(&json!({"v": 1, "id": 2, "op": "run", "prompt": "Hello", "model": "b"}));
    while waits.receive().unwrap()["event"] != "queued" {}
    let left = home.run(["unload", "--json"]).expect(0).json();
    assert_eq!((&left["models"], &left["kept"][0]["running"]), (&json!([]), &json!(1)));
    assert_eq!(pid(&home, "a"), Some(works));
    let said = busy.answer();
    assert_eq!(said.last().unwrap()["finish_reason"], "stop", "{said:?}");
    let answer = waits.answer();
    assert_eq!(Frames::text(&answer), "lorem ipsum dolor sit amet Hello.");
    assert_eq!(loaded(&home), ["b"]);
    assert!(!process_is_alive(works));
}

#[test]
fn a_pinned_model_stays_until_it_is_unloaded_by_name() {
    let home = home("900 MB");
    let pinned = home.run(["load", "--pin", "--json", "a"]).expect(0).json();
    assert_eq!(pinned["pinned"], true);
    for model in ["b", "c", "b"] {
        ask(&home, model).expect(0);
        assert_eq!(loaded(&home), ["a", model]);
    }
    assert!(home.run(["ps"]).expect(0).stdout.contains("never: pinned"));
    let left = home.run(["unload"]).expect(0);
    assert_eq!(left.stdout, "b\n");
    assert!(left.stderr.contains("a stays loaded: it is pinned"), "{left:?}");
    assert_eq!(loaded(&home), ["a"]);
    home.run(["unload", "a"]).expect(0);
    assert_eq!(loaded(&home), [""; 0]);
    assert_eq!(home.run(["unload"]).expect(0).stderr, "no model is loaded\n");
    assert_eq!(home.run(["unload", "a"]).expect(0).stderr, "a is not loaded\n");
}

#[test]
fn what_pinned_models_leave_is_all_there_is_for_others() {
    let home = home("700 MB");
    home.run(["load", "--pin", "a"]).expect(0);
    let refused = ask(&home, "b").expect(3);
    assert!(refused.stderr.contains("400.0 MB of which pinned models take"), "{}", refused.stderr);
    assert_eq!(loaded(&home), ["a"]);
}

#[test]
fn a_model_that_cannot_fit_is_refused_with_the_sum_and_nothing_else_is_disturbed() {
    let home = TestHome::new().config(
        "memory_budget = \"1 GB\"\n\
         [models.a]\ndummy = { memory_bytes = 400_000_000 }\n\
         [models.big]\ncontext = 1000\n\
         dummy = { memory_bytes = 900_000_000, cell_bytes = 200_000 }\n",
    );
    ask(&home, "a").expect(0);
    let stays = pid(&home, "a");
    let sum = "weights 900.0 MB + cache 200.0 MB + buffers 0.0 MB = 1100.0 MB";
    // The first time an engine is asked for the size; then it is known.
    for _ in 0..2 {
        let refused = ask(&home, "big").expect(3);
        assert!(refused.stderr.contains(sum), "{}", refused.stderr);
        assert!(refused.stderr.contains("memory_budget"), "{}", refused.stderr);
        let refused = home.run(["load", "big"]).expect(3);
        assert!(refused.stderr.contains(sum), "{}", refused.stderr);
    }
    let mut client = home.connect();
    let frames = client.ask(&json!({"v": 1, "id": 1, "op": "run", "prompt": "x", "model": "big"}));
    assert_eq!(frames.last().unwrap()["code"], "model_too_large");
    assert_eq!(pid(&home, "a"), stays);
}

#[test]
fn the_context_is_the_largest_that_the_budget_has_room_for() {
    let models = "[models.free]\ndummy = { memory_bytes = 500_000_000, cell_bytes = 100_000 }\n\
                  [models.set]\ncontext = 1000\n\
                  dummy = { memory_bytes = 500_000_000, cell_bytes = 100_000 }\n";
    let home = TestHome::new().config(&format!("memory_budget = \"900 MB\"\n{models}"));
    let load = |name: &str| home.run(["load", "--json", name]).expect(0).json();
    let free = load("free");
    assert_eq!((&free["info"]["n_ctx"], &free["size_bytes"]), (&json!(4000), &json!(900_000_000)));
    let set = load("set");
    assert_eq!((&set["info"]["n_ctx"], &set["size_bytes"]), (&json!(1000), &json!(600_000_000)));
    assert_eq!(loaded(&home), ["set"]);
}

#[test]
fn how_long_a_model_stays_is_the_requests_then_the_models_then_everybodys() {
    let home = home("2 GB").config(
        "idle_timeout = 1000\nmemory_budget = \"2 GB\"\n[models.a]\n[models.b]\n\
         keep_alive = \"10m\"\n[models.c]\nkeep_alive = \"forever\"\n",
    );
    for model in ["a", "b", "c"] {
        ask(&home, model).expect(0);
    }
    let unloads = |name: &str| {
        let models = ps(&home)["models"].as_array().cloned().unwrap_or_default();
        let model = models.into_iter().find(|model| model["name"] == name).expect("it is loaded");
        model["unload_in_s"].as_f64()
    };
    let within = |name: &str, low: f64, high: f64| {
        let seconds = unloads(name).expect("it is unloaded some time");
        assert!(low < seconds && seconds <= high, "{name}: {seconds}");
    };
    within("a", 600.0, 1000.0);
    within("b", 0.0, 600.0);
    assert_eq!(unloads("c"), None);
    home.run(["-m", "c", "--keep-alive", "2h", "Hello"]).expect(0);
    within("c", 600.0, 7200.0);
    home.run(["-m", "a", "--keep-alive", "forever", "Hello"]).expect(0);
    assert_eq!(unloads("a"), None);
    // The next request that sets no `keep_alive` restores the default.
    ask(&home, "a").expect(0);
    within("a", 600.0, 1000.0);
    let mut client = home.connect();
    let request = json!({"v": 1, "prompt": "Hello", "model": "b", "keep_alive": 0});
    client.ask(&request);
    eventually("it is gone", || (loaded(&home) == ["a", "c"]).then_some(()));
    let wrong = client.ask(&json!({"v": 1, "prompt": "Hello", "keep_alive": "soon"}));
    assert_eq!(wrong.last().unwrap()["code"], "invalid_request");
    home.run(["--keep-alive", "soon", "Hello"]).expect(64);
}

#[test]
fn how_long_a_model_stays_is_kept_with_a_job_over_a_restart() {
    let home = home("2 GB");
    let id = home.run(["-m", "a", "--keep-alive", "0", "--detach", "Hello"]).expect(0).stdout;
    let id = id.trim();
    home.run(["wait", id]).expect(0);
    let spec = std::fs::read_to_string(home.workspace("output").join(id).join("job.json")).unwrap();
    let spec: Value = serde_json::from_str(&spec).unwrap();
    assert_eq!(spec["keep_alive"], json!(0.0));
    eventually("it is gone", || loaded(&home).is_empty().then_some(()));
}

#[test]
fn an_engine_that_knows_no_sizes_is_loaded_all_the_same() {
    let home = TestHome::new().config("memory_budget = \"1 GB\"\n");
    // A foreign engine that exits when asked something it does not know.
    let engine = home.root().join("engine");
    let real = threadrunner_tests::program("threadrunner-engine");
    let script = format!(
        "#!/usr/bin/env python3\n\
         import os, socket, struct, sys\n\
         head = socket.socket(fileno=os.dup(0)).recv(65536, socket.MSG_PEEK)\n\
         if b'\"size\"' in head: sys.exit(2)\n\
         os.execv({:?}, [{:?}])\n",
        real.display().to_string(),
        real.display().to_string(),
    );
    write_program(&engine, &script);
    let home = home.with("THREADRUNNER_ENGINE", engine.to_str().unwrap());
    home.run(["Hello"]).expect(0);
    assert!(home.log().contains("cannot estimate the model's memory"), "{}", home.log());
}

fn write_program(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a program can be written");
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a program can be made one");
}

#[test]
fn a_model_file_that_was_replaced_is_loaded_anew_once_its_engine_is_free() {
    let home = home("2 GB");
    home.start_daemon();
    // The dummy reads no file, but an existing one tells which model it is.
    let file = home.root().join("models/a");
    let replace = |text: &str| {
        fs::write(file.with_extension("new"), text).unwrap();
        fs::rename(file.with_extension("new"), &file).unwrap();
    };
    replace("one");
    ask(&home, "a").expect(0);
    let first = pid(&home, "a").unwrap();
    ask(&home, "a").expect(0);
    assert_eq!(pid(&home, "a"), Some(first));
    // An idle engine makes way at once.
    replace("two");
    ask(&home, "a").expect(0);
    let second = pid(&home, "a").unwrap();
    assert_ne!(second, first);
    // A busy engine finishes what it has begun, and new requests go to the next engine.
    let mut busy = home.connect();
    let long = "word ".repeat(300);
    busy.send(&json!({"v": 1, "id": 1, "op": "run", "prompt": long, "model": "a"}));
    while !busy.receive().unwrap()["token"].is_string() {}
    replace("three");
    ask(&home, "a").expect(0);
    assert_ne!(pid(&home, "a"), Some(second));
    let text = Frames::text(&busy.answer());
    assert!(text.ends_with("word."), "{text}");
    // A pinned model stays pinned, with the new file.
    home.run(["load", "--pin", "a"]).expect(0);
    let pinned = pid(&home, "a");
    replace("four");
    ask(&home, "a").expect(0);
    assert_ne!(pid(&home, "a"), pinned);
    assert_eq!(ps(&home)["models"][0]["pinned"], true);
    // A file that is missing for a moment is not another file.
    let fourth = pid(&home, "a");
    fs::remove_file(&file).unwrap();
    ask(&home, "a").expect(0);
    assert_eq!(pid(&home, "a"), fourth);
}
