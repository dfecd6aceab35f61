//! Real models through the whole system, and files that are not models.
#![cfg(feature = "llama")]

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use threadrunner_engine::gguf::{aborting_model, tiny_model};
use threadrunner_tests::{Frames, TestHome, models_directory};

/// SmolLM2-135M-Instruct, as `scripts/get-model` names it.
fn smollm() -> PathBuf {
    model_that_is(true)
}

/// A model of another family.
fn other_than_smollm() -> PathBuf {
    model_that_is(false)
}

fn model_that_is(smollm: bool) -> PathBuf {
    let found = fs::read_dir(models_directory()).expect("the models' directory").flatten();
    found
        .map(|entry| entry.path())
        .find(|path| {
            let is_model = path.extension().is_some_and(|extension| extension == "gguf");
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            is_model && name.contains("SmolLM2") == smollm
        })
        .expect("SmolLM2 and another among the models: run scripts/test")
}

fn home() -> TestHome {
    TestHome::new().with("THREADRUNNER_BACKEND", "llama")
}

/// A home with the model at this path as `models/m.gguf`.
fn home_with(model: &std::path::Path) -> TestHome {
    let home = home().config("[engine]\ncontext = 1024\n");
    fs::create_dir(home.root().join("models")).expect("a home with a model can be made");
    fs::set_permissions(
        home.root().join("models"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .expect("a home with a model can be made");
    std::os::unix::fs::symlink(model, home.root().join("models/m.gguf"))
        .expect("a home with a model can be made");
    home
}

#[test]
fn a_real_model_answers_through_its_template() {
    let home = home_with(&smollm());
    let finished = home.run(["--temperature", "0", "Tell me the capital of France."]).expect(0);
    assert_eq!(finished.stdout, "The capital of France is Paris.\n");
    // llama.cpp logs a warning for whatever the fence refuses.
    assert!(!home.log().contains("WARN"), "{}", home.log());
    let answer = home
        .run(["-m", "m", "--json", "--temperature", "0", "Tell me the capital of France."])
        .expect(0)
        .json();
    assert_eq!(answer["text"], "The capital of France is Paris.");
    assert_eq!(answer["finish_reason"], "stop");
    assert!(answer["usage"]["prompt_tokens"].as_u64() > Some(30), "the template is not counted");
}

/// The engine reads two files behind the fence, and a model gives the same answer when it drafts
/// for itself.
#[test]
fn a_real_model_with_a_draft_model_says_the_same() {
    let home = home_with(&smollm());
    let ask = |draft: &str| {
        let prompt = "Tell me the capital of France.";
        let arguments = ["-m", "m", "--draft", draft, "--json", "--temperature", "0", prompt];
        home.run(arguments).expect(0).json()
    };
    let (plain, drafted) = (ask("none"), ask("m"));
    assert_eq!(plain["text"], "The capital of France is Paris.");
    assert_eq!(drafted["text"], plain["text"]);
    assert!(plain["timings"]["drafted"].is_null(), "{plain}");
    assert!(drafted["timings"]["accepted"].as_u64() > Some(0), "{drafted}");
    assert!(!home.log().contains("WARN"), "{}", home.log());
    // Both models are in its memory.
    let ps = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}))[0]["data"].clone();
    let weights = |drafted: bool| {
        let models = ps["models"].as_array().unwrap();
        let model = models.iter().find(|model| model["draft"].is_string() == drafted).unwrap();
        model["info"]["memory"]["weights_bytes"].as_u64().unwrap()
    };
    assert!(weights(true) > weights(false) * 19 / 10, "{ps}");
}

#[test]
fn a_draft_model_of_another_family_is_refused_with_exit_code_3_and_both_names() {
    let home = home_with(&smollm());
    let other = other_than_smollm();
    let failed = home.run(["-m", "m", "--draft", other.to_str().unwrap(), "Hello"]).expect(3);
    for name in ["SmolLM2", other.file_name().unwrap().to_str().unwrap()] {
        assert!(failed.stderr.contains(name), "{}", failed.stderr);
    }
    // A file that is no model is refused before anything is loaded.
    fs::write(home.root().join("models/empty.gguf"), "no model").unwrap();
    let failed = home.run(["-m", "m", "--draft", "empty.gguf", "Hello"]).expect(3);
    assert!(failed.stderr.contains("empty.gguf"), "{}", failed.stderr);
    let failed = home.run(["-m", "m", "--draft", "nobody", "Hello"]).expect(3);
    assert!(failed.stderr.contains("draft model") && failed.stderr.contains("nobody"));
}

#[test]
fn clients_share_forward_passes_and_not_answers() {
    let home = home_with(&smollm());
    let capitals = [("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo")];
    let mut client = home.connect();
    for (id, (country, _)) in capitals.iter().enumerate() {
        client.send(&json!({
            "v": 1, "id": id, "op": "run", "temperature": 0, "max_tokens": 24,
            "prompt": format!("Tell me the capital of {country}."),
        }));
    }
    let mut texts = vec![String::new(); capitals.len()];
    let mut open = capitals.len();
    while open > 0 {
        let frame = client.receive().unwrap();
        assert!(frame.get("error").is_none(), "{frame}");
        let id = usize::try_from(frame["id"].as_u64().unwrap()).unwrap();
        texts[id].push_str(frame["token"].as_str().unwrap_or_default());
        open -= usize::from(frame["eos"] == true);
    }
    for (text, (_, capital)) in texts.iter().zip(capitals) {
        assert!(text.contains(capital), "{texts:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_answer() {
    let home = home_with(&smollm());
    let arguments = ["--seed", "7", "--temperature", "1", "--max-tokens", "16", "Tell a story."];
    let first = home.run(arguments).expect(0).stdout;
    assert_eq!(home.run(arguments).expect(0).stdout, first);
}

#[test]
fn a_prompt_over_the_context_is_never_cut() {
    let home = home_with(&smollm());
    let finished = home.run(["word ".repeat(3000)]).expect(3);
    assert!(finished.stderr.contains("1024"), "{}", finished.stderr);
    assert!(finished.stderr.contains("30"), "{}", finished.stderr);
}

#[test]
fn a_stop_text_ends_the_answer_before_it() {
    let home = home_with(&smollm());
    let finished = home
        .run(["--temperature", "0", "--stop", " Paris", "Tell me the capital of France."])
        .expect(0);
    assert_eq!(finished.stdout, "The capital of France is\n");
}

#[test]
fn a_client_that_vanishes_while_its_prompt_is_read_frees_its_slot() {
    let home = home_with(&smollm());
    let mut client = home.connect();
    client.send(&json!({"v": 1, "id": 1, "op": "run", "prompt": "word ".repeat(900)}));
    // From when its prompt begins to be read.
    while client.receive().expect("progress")["event"] != "loading" {}
    drop(client);
    let finished = home.run(["--temperature", "0", "Tell me the capital of France."]).expect(0);
    assert_eq!(finished.stdout, "The capital of France is Paris.\n");
    threadrunner_tests::eventually("its job is canceled", || {
        (home.jobs_in("failed").len() == 1).then_some(())
    });
}

/// Files that are not models, each with what is wrong with it.
fn broken_files() -> Vec<(&'static str, Vec<u8>)> {
    let whole = fs::read(smollm()).expect("SmolLM2 can be read");
    let mut flipped = whole[..4 << 20].to_vec();
    flipped[9] ^= 0xff;
    let mut noise = Vec::new();
    let mut state = 0x9e37_79b9_u32;
    while noise.len() < 100_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise.extend_from_slice(&state.to_le_bytes());
    }
    vec![
        ("truncated", whole[..whole.len() / 2].to_vec()),
        ("random bytes", noise),
        ("a flipped header", flipped),
        ("empty", Vec::new()),
        ("aborts llama.cpp", aborting_model().to_bytes()),
    ]
}

#[test]
fn a_file_that_is_no_model_is_exit_code_3_and_the_daemon_lives_on() {
    let home = home();
    let daemon = home.daemon_pid();
    for (what, bytes) in broken_files() {
        let path = home.root().join("broken.gguf");
        fs::write(&path, bytes).unwrap();
        let finished = home.run(["-m", path.to_str().unwrap(), "Hello"]);
        assert_eq!(finished.code, 3, "{what}: {finished:?}");
        assert!(finished.stderr.contains("broken.gguf"), "{what}: {}", finished.stderr);
    }
    let nowhere = home.root().join("nowhere.gguf");
    let finished = home.run(["-m", nowhere.to_str().unwrap(), "Hello"]).expect(3);
    assert!(finished.stderr.contains("nowhere.gguf"), "{}", finished.stderr);
    let _ = home.run(["Hello"]).expect(3);
    let tiny = home.root().join("tiny.gguf");
    fs::write(&tiny, tiny_model(1).to_bytes()).unwrap();
    home.run(["-m", tiny.to_str().unwrap(), "--raw", "--max-tokens", "4", "Hello"]).expect(0);
    assert_eq!(home.daemon_pid(), daemon);
}

#[test]
fn a_simple_client_gets_a_real_answer() {
    let home = home_with(&smollm());
    let frames = home.connect().ask(&json!({
        "v": 1, "prompt": "Tell me the capital of France.", "stream": true, "temperature": 0,
    }));
    assert_eq!(Frames::text(&frames), "The capital of France is Paris.");
    let timings = &frames.last().unwrap()["timings"];
    assert!(timings["decode_ms"].as_f64() > Some(0.0), "{timings}");
    assert_ne!(frames.last().unwrap()["usage"], Value::Null);
}

/// A process's memory in bytes: `Rss:` includes everything it shares with other processes, `Pss:`
/// only its share of that; 0 if the process is gone.
fn bytes_of(pid: u64, what: &str) -> u64 {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = smaps.lines().find_map(|line| line.strip_prefix(what));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[test]
fn two_models_that_do_not_fit_together_take_turns_and_give_their_memory_back() {
    let gemma = models_directory().join("gemma-3-270m-q4_k_m.gguf");
    let text = "memory_budget = \"450 MB\"\n[engine]\ncontext = 1024\n";
    let home = home_with(&smollm()).config(text);
    std::os::unix::fs::symlink(gemma, home.root().join("models/g.gguf")).unwrap();
    let engines = || {
        let list = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
        list[0]["data"]["models"].as_array().cloned().unwrap_or_default()
    };
    let mut gone: Vec<u64> = Vec::new();
    for _ in 0..2 {
        for (model, raw, prompt, answer) in [
            ("m", false, "Tell me the capital of France.", "The capital of France is Paris."),
            ("g", true, "one two three four", " five"),
        ] {
            let mut arguments = vec!["-m", model, "--temperature", "0", "--max-tokens", "8"];
            arguments.extend(raw.then_some("--raw"));
            arguments.push(prompt);
            let said = home.run(arguments).expect(0).stdout;
            assert!(said.contains(answer), "{said}");
            let loaded = engines();
            assert_eq!(loaded.len(), 1, "{loaded:?}");
            let pid = loaded[0]["pid"].as_u64().unwrap();
            // It takes what `ps` says. Another test may have the same file mapped.
            let (has, own) = (bytes_of(pid, "Rss:"), bytes_of(pid, "Pss:"));
            let said = loaded[0]["size_bytes"].as_u64().unwrap();
            assert!(has > 100_000_000 && said >= own && said < 2 * has, "{has} {own} {said}");
            assert!(said < 450_000_000, "{said}");
            assert!(gone.iter().all(|pid| bytes_of(*pid, "Rss:") == 0), "{gone:?}");
            gone.push(pid);
        }
    }
    gone.dedup();
    assert_eq!(gone.len(), 4, "they took turns");
}

#[test]
fn a_cache_takes_memory_for_what_is_used_of_it() {
    // 755 MB of cells.
    let home = home_with(&smollm()).config("[engine]\ncontext = 32768\nsequences = 8\n");
    let ask = |prompt: &str| {
        home.run(["--temperature", "0", "--max-tokens", "8", prompt]).expect(0);
        let list = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
        let model = &list[0]["data"]["models"][0];
        assert!(model["size_bytes"].as_u64() > Some(755_000_000), "it may all be used: {model}");
        bytes_of(model["pid"].as_u64().unwrap(), "Rss:")
    };
    let little = ask("Tell me the capital of France.");
    let more = ask(&"All rivers flow into the sea. ".repeat(500));
    assert!(little > 90_000_000 && little < 400_000_000, "{little}");
    // About 3,500 tokens of 23 kB each.
    assert!(more > little + 70_000_000 && more < little + 300_000_000, "{little} {more}");
}

#[test]
fn a_model_over_the_budget_is_refused_before_it_is_loaded() {
    let home = home_with(&smollm()).config("memory_budget = \"120 MB\"\n");
    let refused = home.run(["Hello"]).expect(3);
    assert!(
        refused.stderr.contains("weights 98.") && refused.stderr.contains("cache 47."),
        "{refused:?}"
    );
    assert!(!home.log().contains("engine started"), "{}", home.log());
    let home = home_with(&smollm()).config("memory_budget = \"300 MB\"\n");
    let loaded = home.run(["load", "--json"]).expect(0).json();
    let context = loaded["info"]["n_ctx"].as_u64().unwrap();
    assert!((2048..8192).contains(&context), "{loaded}");
    assert!(loaded["size_bytes"].as_u64() <= Some(300_000_000), "{loaded}");
}

#[test]
fn a_second_turn_reads_only_what_is_new() {
    let home = home_with(&smollm());
    let turn = |prompt: &str, arguments: &[&str]| {
        let usual = ["--json", "--temperature", "0", "--max-tokens", "40"];
        let run = home.run(usual.iter().chain(arguments).chain([&prompt]));
        run.expect(0).json()
    };
    let tokens = |answer: &Value, key: &str| answer["usage"][key].as_u64().unwrap();
    let first = turn("Tell me the capital of France.", &["--session", "s"]);
    let second = turn("And of Italy?", &["-c"]);
    assert_eq!(second["session"], "s");
    let computed =
        |answer: &Value| tokens(answer, "prompt_tokens") - tokens(answer, "cached_tokens");
    // The second turn's prompt contains the first's, which is in the cache.
    assert!(tokens(&second, "cached_tokens") >= tokens(&first, "prompt_tokens") - 1, "{second}");
    // A new engine with nothing cached reads it all.
    home.run(["daemon", "stop"]).expect(0);
    let cache = home.root().join("cache/state");
    if cache.exists() {
        fs::remove_dir_all(cache).unwrap();
    }
    home.run(["sessions", "show", "s"]).expect(0);
    let third = turn("And of Spain?", &["-c"]);
    assert!(computed(&third) > tokens(&second, "prompt_tokens"), "{third}");
    assert!(computed(&second) * 2 < computed(&third), "{second} {third}");
}
