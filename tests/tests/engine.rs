//! Engines that die, hang, refuse or idle, and a daemon that lives on.

use rustix::process::Signal;
use serde_json::{Value, json};
use threadrunner_tests::{Finished, Frames, TestHome, eventually, process_is_alive};

fn engine(home: &TestHome) -> Option<u32> {
    let list = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
    list[0]["data"]["models"][0]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
}

fn read_until_token(client: &mut Frames) {
    while !client.receive().expect("tokens come")["token"].is_string() {}
}

#[test]
fn an_engine_killed_while_it_streams_ends_the_request_and_not_the_daemon() {
    let home = TestHome::new().dummy(&json!({"step_ms": 20, "words": 100_000}));
    let daemon = home.daemon_pid();
    let mut client = home.connect();
    client.send(&json!({"v": 1, "prompt": "Hello"}));
    read_until_token(&mut client);
    home.kill(engine(&home).unwrap(), Signal::KILL);
    let answer = client.answer();
    assert_eq!(answer.last().unwrap()["code"], "engine_died", "{answer:?}");
    assert_eq!(answer.last().unwrap()["retryable"], true);
    let short = client.ask(&json!({"v": 1, "prompt": "Hello", "max_tokens": 2}));
    assert_eq!(Frames::text(&short), "lorem ipsum");
    assert_eq!(home.daemon_pid(), daemon);
}

#[test]
fn a_detached_job_whose_engine_aborts_is_begun_again_and_then_fails() {
    let home = TestHome::new().dummy(&json!({"abort_after": 2}));
    let id = home.run(["--detach", "Hello"]).expect(0).stdout.trim().to_owned();
    home.run(["wait", &id]).expect(6);
    let record = home.connect().ask(&json!({"v": 1, "id": 1, "op": "job", "job": id}));
    assert_eq!(record[0]["data"]["attempts"], 3);
    assert_eq!(record[0]["data"]["error"]["code"], "engine_died");
}

#[test]
fn a_request_that_fails_ends_alone() {
    let home = TestHome::new().dummy(&json!({"fail_after": 2}));
    let finished = home.run(["Hello"]).expect(3);
    assert_eq!(finished.stdout.trim_end(), "lorem ipsum");
    assert_eq!(home.jobs_in("failed").len(), 1);
}

#[test]
fn a_model_that_does_not_load_says_why() {
    let home = TestHome::new().dummy(&json!({"load_error": "no such luck"}));
    let finished = home.run(["Hello"]).expect(3);
    assert!(finished.stderr.contains("no such luck"), "{}", finished.stderr);
    let finished = home.run(["load"]).expect(3);
    assert!(finished.stderr.contains("no such luck"), "{}", finished.stderr);
}

#[test]
fn loading_is_told_as_it_goes_on() {
    let home = TestHome::new().dummy(&json!({"load_ms": 100}));
    let frames = home.connect().ask(&json!({"v": 1, "id": 1, "op": "run", "prompt": "Hello"}));
    let fractions: Vec<_> = frames
        .iter()
        .filter(|frame| frame["event"] == "loading")
        .map(|frame| frame["fraction"].as_f64().unwrap())
        .collect();
    assert!(fractions.len() > 2, "{frames:?}");
    assert!(fractions.is_sorted() && *fractions.last().unwrap() <= 1.0, "{fractions:?}");
}

#[test]
fn an_idle_model_is_unloaded_and_its_process_ends() {
    let home = TestHome::new().config("idle_timeout = 0.2\n");
    home.run(["Hello"]).expect(0);
    if let Some(pid) = engine(&home) {
        eventually("the engine ends", || (!process_is_alive(pid)).then_some(()));
    }
    eventually("nothing is loaded", || engine(&home).is_none().then_some(()));
    home.run(["Hello"]).expect(0);
}

#[test]
fn a_model_is_loaded_and_unloaded_when_told() {
    let home = TestHome::new();
    home.run(["load"]).expect(0);
    let pid = engine(&home).unwrap();
    let ps = home.run(["ps"]).expect(0);
    assert!(ps.stdout.contains("dummy"), "{}", ps.stdout);
    home.run(["unload"]).expect(0);
    eventually("the engine ends", || (!process_is_alive(pid)).then_some(()));
    assert_eq!(engine(&home), None);
}

#[test]
fn a_prompt_over_the_context_is_refused_with_both_numbers() {
    let home = TestHome::new().config("[engine]\ncontext = 64\n");
    let finished = home.run(["x".repeat(1000)]).expect(3);
    assert!(finished.stderr.contains("1000") && finished.stderr.contains("64"), "{finished:?}");
}

#[test]
fn a_request_over_its_time_is_exit_code_4_and_frees_its_slot() {
    let home = TestHome::new().dummy(&json!({"step_ms": 20, "words": 100_000}));
    home.run(["--timeout", "0.3", "Hello"]).expect(4);
    eventually("nothing runs", || {
        let list = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
        (list[0]["data"]["models"][0]["running"] == 0).then_some(())
    });
}

#[test]
fn more_requests_than_slots_wait_and_see_their_place() {
    let home = TestHome::new()
        .config("[engine]\nsequences = 1\n")
        .dummy(&json!({"step_ms": 10, "words": 50}));
    home.run(["load"]).expect(0);
    let mut client = home.connect();
    for id in 0..4 {
        let request = json!({
            "v": 1, "id": id, "op": "run", "prompt": "Hello", "priority": "normal",
        });
        client.send(&request);
    }
    let mut places: Vec<Value> = Vec::new();
    let mut open = 4;
    while open > 0 {
        let frame = client.receive().unwrap();
        if frame["event"] == "queued" {
            places.push(frame["position"].clone());
        }
        open -= usize::from(frame["eos"] == true);
    }
    assert!(places.contains(&json!(3)) && places.contains(&json!(1)), "{places:?}");
}

#[test]
fn a_full_queue_is_exit_code_5_at_once() {
    let home =
        TestHome::new().config("max_queue = 1\n").dummy(&json!({"step_ms": 20, "words": 100_000}));
    home.run(["--detach", "Hello"]).expect(0);
    let finished: Finished = home.run(["Hello"]).expect(5);
    assert!(finished.stderr.contains("max_queue"), "{}", finished.stderr);
}

#[test]
fn a_person_is_answered_while_every_place_is_taken_by_batch_work() {
    let home = TestHome::new()
        .config("[engine]\nsequences = 4\n")
        .dummy(&json!({"step_ms": 5, "words": 100_000}));
    let mut client = home.connect();
    let batch: Vec<String> = (0..6)
        .map(|id| {
            let job = json!({"v": 1, "id": id, "op": "submit", "prompt": "x", "priority": "batch"});
            client.ask(&job)[0]["data"]["job"].as_str().unwrap().to_owned()
        })
        .collect();
    let running = |home: &TestHome| {
        let list = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
        list[0]["data"]["running"].as_array().unwrap().len()
    };
    eventually("every place is taken", || (running(&home) >= 4).then_some(()));
    // More interactive clients than places.
    let mut people: Vec<Frames> = (0..5).map(|_| home.connect()).collect();
    for person in &mut people {
        person.send(&json!({"v": 1, "prompt": "Hello", "max_tokens": 3}));
    }
    for person in &mut people {
        assert_eq!(Frames::text(&person.answer()), "lorem ipsum dolor");
    }
    assert!(home.jobs_in("output").len() == 5 && home.jobs_in("failed").is_empty());
    for (id, job) in (100..).zip(batch) {
        client.ask(&json!({"v": 1, "id": id, "op": "cancel", "job": job}));
    }
}

#[test]
fn what_a_prompt_has_in_common_with_an_earlier_one_is_counted() {
    let home = TestHome::new();
    let mut client = home.connect();
    let prefix = "one two three four five six seven eight nine ten";
    let mut usage = |prompt: String| {
        let frames = client.ask(&json!({"v": 1, "id": 1, "op": "run", "prompt": prompt}));
        frames.last().unwrap()["usage"].clone()
    };
    assert_eq!(usage(format!("{prefix} eleven"))["cached_tokens"], 0);
    assert_eq!(usage(format!("{prefix} twelve"))["cached_tokens"], prefix.len() + 1);
    let list = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
    let model = &list[0]["data"]["models"][0];
    assert_eq!(model["cached_tokens"], prefix.len() + 1);
    assert_eq!(model["prompt_tokens"], 2 * (prefix.len() + 7));
    assert_eq!(model["info"]["prefix_cache"], "any");
    let shown = home.run(["ps"]).expect(0).stdout;
    assert!(shown.contains("CACHED") && shown.contains("45 %"), "{shown}");
}

#[test]
fn without_a_prefix_cache_nothing_is_kept() {
    let home = TestHome::new().config("[engine]\nprefix_cache = false\n");
    let mut client = home.connect();
    for _ in 0..2 {
        let frames = client.ask(&json!({"v": 1, "id": 1, "op": "run", "prompt": "Hello there"}));
        assert_eq!(frames.last().unwrap()["usage"]["cached_tokens"], 0);
    }
}

#[test]
fn a_deterministic_engine_answers_one_after_another() {
    let home = TestHome::new().config("[engine]\ndeterministic = true\n");
    let mut clients: Vec<Frames> = (0..6).map(|_| home.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&json!({"v": 1, "prompt": format!("number {n}")}));
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let said = format!("lorem ipsum dolor sit amet number. {n}.");
        assert_eq!(Frames::text(&client.answer()), said);
    }
    let list = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
    let info = &list[0]["data"]["models"][0]["info"];
    assert_eq!((&info["deterministic"], &info["n_seq_max"]), (&json!(true), &json!(1)));
}
