//! Conversations: turns that follow each other, whatever happens between them.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};
use threadrunner_tests::{Finished, Frames, TestHome, eventually, process_is_alive};

/// The dummy repeats the whole conversation, so that an answer shows what the model was given.
fn talkative() -> TestHome {
    TestHome::new().dummy(&json!({"transcript": true}))
}

fn id(finished: Finished) -> String {
    finished.expect(0).stdout.trim().to_owned()
}

fn show(home: &TestHome, name: &str) -> Value {
    home.run(["sessions", "show", "--json", name]).expect(0).json()
}

/// Ends the daemon as a crash would.
fn kill_daemon(home: &TestHome) {
    let pid = home.daemon_pid();
    home.kill(pid, Signal::KILL);
    eventually("the daemon is gone", || (!process_is_alive(pid)).then_some(()));
}

/// The prompts of a session's turns.
fn prompts(home: &TestHome, name: &str) -> Vec<String> {
    let shown = show(home, name);
    let turns = shown["conversation"].as_array().expect("turns");
    turns.iter().map(|turn| turn["prompt"].as_str().expect("a prompt").to_owned()).collect()
}

#[test]
fn a_turn_is_answered_with_all_that_was_said_before() {
    let home = talkative();
    let first = home.run(["--session", "trip", "-s", "Brief", "I am Ann"]).expect(0).stdout;
    assert_eq!(first, "lorem ipsum dolor sit amet system. Brief. user. I. am. Ann.\n");
    let second = home.run(["-c", "Who am I"]).expect(0).stdout;
    let said = "system. Brief. user. I. am. Ann. assistant. lorem. ipsum. dolor. sit. amet. system. \
                Brief. user. I. am. Ann. user. Who. am. I.";
    assert_eq!(second, format!("lorem ipsum dolor sit amet {said}\n"));
    // A chain of jobs, each with only its own words.
    let shown = show(&home, "trip");
    let turns = shown["conversation"].as_array().unwrap();
    assert_eq!((turns.len(), &shown["turns"]), (2, &json!(2)));
    assert_eq!(shown["head"], turns[1]["job"]);
    assert_eq!(shown["system"], "Brief");
    let last = turns[1]["job"].as_str().unwrap();
    let file = |name: &str| fs::read_to_string(home.workspace("output").join(last).join(name));
    assert_eq!(file("prompt.txt").unwrap(), "Who am I");
    let spec: Value = serde_json::from_str(&file("job.json").unwrap()).unwrap();
    assert_eq!((&spec["session"], spec.get("messages")), (&json!("trip"), None));
    let meta: Value = serde_json::from_str(&file("meta.json").unwrap()).unwrap();
    assert_eq!(meta["parent"], turns[0]["job"]);
    // What was read for the first turn is not read again.
    assert!(turns[1]["usage"]["cached_tokens"].as_u64() > Some(10), "{}", turns[1]);
    let plain = home.run(["Hello"]).expect(0);
    assert_eq!(plain.stdout, "lorem ipsum dolor sit amet user. Hello.\n");
    assert_eq!(home.run(["sessions", "--json"]).json()["sessions"].as_array().unwrap().len(), 1);
}

#[test]
fn a_turn_that_fails_or_is_canceled_is_not_part_of_the_conversation() {
    let home = talkative();
    home.run(["--session", "s", "one"]).expect(0);
    let scripted = |home: TestHome, script: &str| home.with("THREADRUNNER_DUMMY", script);
    home.run(["daemon", "stop"]).expect(0);
    let home = scripted(home, r#"{"fail_after":2}"#);
    let failed = home.run(["--session", "s", "two"]).expect(3);
    assert!(failed.stderr.contains("not part of session 's'"), "{}", failed.stderr);
    home.run(["daemon", "stop"]).expect(0);
    let home = scripted(home, r#"{"step_ms":1,"words":1000000}"#);
    let canceled = id(home.run(["--session", "s", "--detach", "three"]));
    home.run(["cancel", &canceled]).expect(0);
    assert_eq!(prompts(&home, "s"), ["one"]);
    home.run(["daemon", "stop"]).expect(0);
    let home = scripted(home, r#"{"transcript":true}"#);
    let next = home.run(["--session", "s", "four"]).expect(0).stdout;
    assert!(next.ends_with("user. one. user. four.\n"), "{next}");
    assert_eq!(prompts(&home, "s"), ["one", "four"]);
    // A session whose first turn failed does not exist.
    let home = scripted(home, r#"{"fail_after":0}"#);
    home.run(["daemon", "restart"]).expect(0);
    home.run(["--session", "new", "hi"]).expect(3);
    home.run(["sessions", "show", "new"]).expect(7);
    // Its file is removed after the clients are told.
    eventually("nothing is left", || {
        (fs::read_dir(home.workspace(".sessions")).unwrap().count() == 1).then_some(())
    });
}

#[test]
fn a_turn_that_is_retried_is_the_next_one() {
    let home = TestHome::new().dummy(&json!({"fail_after": 2}));
    home.run(["--session", "s", "--max-tokens", "1", "one"]).expect(0);
    let failed = id(home.run(["--session", "s", "--detach", "two"]));
    home.run(["wait", &failed]).expect(6);
    home.run(["--session", "s", "--max-tokens", "1", "three"]).expect(0);
    home.run(["daemon", "stop"]).expect(0);
    let home = home.with("THREADRUNNER_DUMMY", r#"{"transcript":true}"#);
    home.run(["retry", &failed]).expect(0);
    home.run(["wait", &failed]).expect(0);
    let answer = home.run(["result", &failed]).expect(0).stdout;
    assert!(answer.ends_with("user. three. assistant. lorem. user. two.\n"), "{answer}");
    assert_eq!(prompts(&home, "s"), ["one", "three", "two"]);
}

#[test]
fn turns_of_one_session_that_are_asked_at_once_follow_each_other() {
    let home = TestHome::new().dummy(&json!({"transcript": true, "step_ms": 5}));
    let ids: Vec<_> = ["one", "two", "three"]
        .map(|prompt| id(home.run(["--session", "s", "--detach", prompt])))
        .into();
    let attached = home.run(["--session", "s", "four"]).expect(0).stdout;
    assert!(attached.ends_with("user. four.\n"), "{attached}");
    assert_eq!(prompts(&home, "s"), ["one", "two", "three", "four"]);
    for (id, said) in ids.iter().zip(["user. one.\n", "user. two.\n", "user. three.\n"]) {
        let answer = home.run(["result", id]).expect(0).stdout;
        assert!(answer.ends_with(said), "{answer}");
    }
}

#[test]
fn a_turn_waits_for_the_one_before_it_and_goes_on_without_it_when_that_is_canceled() {
    let home = TestHome::new().dummy(&json!({"words": 100_000, "step_ms": 1}));
    let first = id(home.run(["--session", "s", "--detach", "endless"]));
    let second = id(home.run(["--session", "s", "--detach", "--max-tokens", "2", "short"]));
    let pending = show(&home, "s")["pending"].clone();
    assert_eq!(pending, json!([first, second]));
    let refused = home.run(["sessions", "rm", "s"]).expect(6);
    assert!(refused.stderr.contains(&first), "{}", refused.stderr);
    let queued = home.run(["jobs", "--json", "--state", "queued"]).json();
    assert_eq!(queued["jobs"][0]["waits_for"], json!([first]));
    home.run(["cancel", &first]).expect(0);
    home.run(["wait", &second]).expect(0);
    assert_eq!(prompts(&home, "s"), ["short"]);
}

#[test]
fn a_detached_turn_becomes_part_of_its_session_through_a_kill_of_the_daemon() {
    let home = TestHome::new().dummy(&json!({"transcript": true, "step_ms": 20}));
    home.run(["--session", "s", "one"]).expect(0);
    let ids: Vec<_> =
        ["two", "three"].map(|prompt| id(home.run(["--session", "s", "--detach", prompt]))).into();
    let processing = home.workspace("processing").join(&ids[0]);
    eventually("the second turn runs", || processing.exists().then_some(()));
    kill_daemon(&home);
    home.start_daemon();
    home.run(["wait", &ids[0], &ids[1]]).expect(0);
    let last = home.run(["result", &ids[1]]).expect(0).stdout;
    assert!(last.ends_with("user. three.\n"), "{last}");
    assert_eq!(prompts(&home, "s"), ["one", "two", "three"]);
}

#[test]
fn a_turn_that_was_done_when_the_daemon_was_killed_is_part_of_its_session() {
    let home = talkative();
    home.run(["--session", "s", "one"]).expect(0);
    let file = home.workspace(".sessions/s.json");
    // The file from before the turn ended, as a kill between the two would leave it.
    let head: Value = eventually("the end is written", || {
        let file: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        (file["head"] != Value::Null).then_some(file)
    });
    kill_daemon(&home);
    let before = json!({"v": 1, "pending": [head["head"]], "state": head["state"]});
    fs::write(&file, before.to_string()).unwrap();
    assert_eq!(prompts(&home, "s"), ["one"]);
    let answer = home.run(["-c", "two"]).expect(0).stdout;
    assert!(answer.ends_with("user. one. user. two.\n"), "{answer}");
}

#[test]
fn a_job_that_a_session_needs_is_not_removed_and_one_removed_by_hand_is_missed() {
    let home = talkative().config("[retention]\nmax_jobs = 0\n");
    for prompt in ["one", "two", "three"] {
        home.run(["--session", "s", prompt]).expect(0);
    }
    home.run(["Hello"]).expect(0);
    let turns = show(&home, "s")["conversation"].clone();
    let first = turns[0]["job"].as_str().unwrap();
    let refused = home.run(["rm", first]).expect(6);
    assert!(refused.stderr.contains("session 's' needs job"), "{}", refused.stderr);
    home.run(["prune", "--older-than", "0"]).expect(0);
    assert_eq!(home.jobs_in("output").len(), 3, "only the turns are left");
    fs::remove_dir_all(home.workspace("output").join(first)).unwrap();
    let broken = home.run(["-c", "four"]).expect(7);
    assert!(broken.stderr.contains(first), "{}", broken.stderr);
    let shown = home.run(["sessions", "show", "s"]).expect(0);
    assert!(shown.stderr.contains(first) && shown.stdout.contains("> two"), "{shown:?}");
    assert_eq!(show(&home, "s")["missing"], first);
    assert!(home.run(["sessions"]).expect(0).stdout.contains("is gone"));
    home.run(["sessions", "rm", "s"]).expect(0);
    home.run(["sessions", "show", "s"]).expect(7);
    home.run(["prune", "--older-than", "0"]).expect(0);
    assert_eq!(home.jobs_in("output"), [] as [&str; 0]);
}

#[test]
fn a_session_that_is_forgotten_takes_its_jobs_along_if_asked() {
    let home = talkative();
    home.run(["--session", "a", "one"]).expect(0);
    home.run(["--session", "b", "two"]).expect(0);
    let removed = home.run(["sessions", "rm", "a", "nobody", "--jobs", "--json"]).expect(7);
    let removed: Value = serde_json::from_str(removed.stdout.lines().next().unwrap()).unwrap();
    assert_eq!((&removed["session"], removed["jobs"].as_array().unwrap().len()), (&json!("a"), 1));
    assert_eq!(home.jobs_in("output").len(), 1);
    let begun_anew = home.run(["--session", "a", "three"]).expect(0).stdout;
    assert!(begun_anew.ends_with("amet user. three.\n"), "{begun_anew}");
}

#[test]
fn workspaces_have_sessions_of_their_own() {
    let home = talkative().config("[workspaces.code]\nsystem = \"Code\"\n");
    home.run(["--session", "s", "here"]).expect(0);
    home.run(["--session", "s", "-w", "code", "there"]).expect(0);
    let there = home.run(["-c", "-w", "code", "again"]).expect(0).stdout;
    assert!(there.contains("system. Code. user. there."), "{there}");
    let refused = home.run(["sessions", "show", "s"]).expect(64);
    assert!(refused.stderr.contains("'default'") && refused.stderr.contains("-w"), "{refused:?}");
    assert!(home.run(["sessions", "show", "-w", "default", "s"]).expect(0).stdout.contains("here"));
    let listed = home.run(["sessions", "--json"]).json();
    let of = |at: usize| {
        (listed["sessions"][at]["workspace"].clone(), listed["sessions"][at]["turns"].clone())
    };
    assert_eq!([of(0), of(1)], [(json!("code"), json!(2)), (json!("default"), json!(1))]);
    let state = |path: &str| -> Value {
        let file = fs::read(home.root().join(path).join(".sessions/s.json")).unwrap();
        serde_json::from_slice::<Value>(&file).unwrap()["state"].clone()
    };
    assert_ne!(state("workspace"), state("workspaces/code"));
}

#[test]
fn what_is_unknown_or_cannot_be_is_refused() {
    let home = talkative();
    let nothing = home.run(["-c", "hi"]).expect(7);
    assert!(nothing.stderr.contains("no session to continue"), "{}", nothing.stderr);
    home.run(["-c", "--session", "s", "hi"]).expect(7);
    for command in ["show", "undo", "rm", "export"] {
        home.run(["sessions", command, "nobody"]).expect(7);
    }
    home.run(["--session", "../s", "hi"]).expect(64);
    let mut client = home.connect();
    for (keys, code) in [
        (json!({"session": ".s"}), "invalid_request"),
        (json!({"session": "s", "raw": true}), "invalid_request"),
        (json!({"session": "s", "parent": "1"}), "invalid_request"),
        (json!({"replaces": "1"}), "invalid_request"),
        (json!({"session": "s", "replaces": "1"}), "wrong_state"),
    ] {
        let mut request = json!({"v": 1, "id": 1, "op": "run", "prompt": "hi"});
        let (request, keys) = (request.as_object_mut().unwrap(), keys.as_object().unwrap());
        request.extend(keys.clone());
        let frames = client.ask(&Value::Object(request.clone()));
        assert_eq!(frames.last().unwrap()["code"], code, "{keys:?}: {frames:?}");
    }
    assert_eq!(home.run(["sessions", "--json"]).json()["sessions"], json!([]));
}

#[test]
fn an_answer_takes_the_place_of_the_last_and_of_no_other() {
    let home = talkative();
    home.run(["--session", "s", "one"]).expect(0);
    home.run(["--session", "s", "two"]).expect(0);
    let turns = show(&home, "s")["conversation"].clone();
    let mut client = home.connect();
    let mut ask = |replaces: &Value| {
        let request = json!({
            "v": 1, "id": 1, "op": "run", "prompt": "three", "session": "s", "replaces": replaces,
        });
        client.ask(&request)
    };
    let refused = ask(&turns[0]["job"]);
    assert_eq!(refused.last().unwrap()["code"], "wrong_state");
    let answer = Frames::text(&ask(&turns[1]["job"]));
    assert!(answer.ends_with("user. one. user. three."), "{answer}");
    assert_eq!(prompts(&home, "s"), ["one", "three"]);
}

#[test]
fn a_session_keeps_its_model_until_another_is_named() {
    let home = talkative();
    fs::create_dir_all(home.root().join("models")).unwrap();
    home.run(["--session", "s", "one"]).expect(0);
    // The default is another backend now; the dummy needs no model file, but llama would.
    let home = home.with("THREADRUNNER_BACKEND", "llama");
    home.run(["--session", "s", "two"]).expect(0);
    assert_eq!(show(&home, "s")["model"], "dummy");
    home.run(["--session", "other", "one"]).expect(3);
    home.run(["--session", "s", "-m", "nothing", "three"]).expect(3);
    assert_eq!(prompts(&home, "s"), ["one", "two"]);
}

#[test]
fn a_conversation_too_long_for_the_model_is_refused_with_what_to_do() {
    let home = talkative().config("[engine]\ncontext = 256\n");
    home.run(["--session", "s", "--max-tokens", "5", "one"]).expect(0);
    let long = "word ".repeat(80);
    let refused = home.run(["--session", "s", &long]).expect(3);
    assert!(refused.stderr.contains("session 's' has grown too long"), "{}", refused.stderr);
    assert!(refused.stderr.contains("sessions export s"), "{}", refused.stderr);
    assert!(refused.stderr.contains("sessions undo s"), "{}", refused.stderr);
    home.run(["--session", "s", "--max-tokens", "5", "two"]).expect(0);
    assert_eq!(prompts(&home, "s"), ["one", "two"]);
    // Of a conversation's first turn, it is the prompt.
    let refused = home.run(["--session", "new", &"word ".repeat(300)]).expect(3);
    assert!(!refused.stderr.contains("sessions undo"), "{}", refused.stderr);
    assert!(refused.stderr.contains("the prompt is 15"), "{}", refused.stderr);
}

#[test]
fn a_session_that_an_answer_filled_goes_on_when_that_is_taken_back() {
    let home = talkative().config("[engine]\ncontext = 256\n");
    home.run(["--session", "s", "one"]).expect(0);
    let long = "word ".repeat(20);
    let last = home.run(["--session", "s", "--json", &long]).expect(0).json();
    home.run(["--session", "s", "three"]).expect(3);
    let undone = home.run(["sessions", "undo", "s"]).expect(0);
    assert_eq!(undone.stdout.trim(), last["job"]);
    assert_eq!(undone.stderr, "session 's' has 1 turn now\n");
    home.run(["--session", "s", "--max-tokens", "5", "four"]).expect(0);
    assert_eq!(prompts(&home, "s"), ["one", "four"]);
    // A turn that was taken back is an ordinary job.
    home.run(["rm", last["job"].as_str().unwrap()]).expect(0);
}

#[test]
fn turns_are_taken_back_one_after_the_other_for_good_until_none_is_left() {
    let home = talkative();
    for prompt in ["one", "two", "three"] {
        home.run(["--session", "s", prompt]).expect(0);
    }
    home.run(["sessions", "undo", "s"]).expect(0);
    kill_daemon(&home);
    assert_eq!(prompts(&home, "s"), ["one", "two"]);
    let undone = home.run(["sessions", "undo", "--json", "s"]).expect(0).json();
    assert_eq!((&undone["session"], &undone["turns"]), (&json!("s"), &json!(1)));
    home.run(["sessions", "undo", "s"]).expect(0);
    home.run(["sessions", "undo", "s"]).expect(7);
    home.run(["sessions", "show", "s"]).expect(7);
    let anew = home.run(["--session", "s", "four"]).expect(0).stdout;
    assert!(anew.ends_with("amet user. four.\n"), "{anew}");
    assert_eq!(prompts(&home, "s"), ["four"]);
}

#[test]
fn a_turn_is_not_taken_back_under_one_that_has_not_ended_or_after_one_that_is_gone() {
    let home = TestHome::new().dummy(&json!({"words": 100_000, "step_ms": 20}));
    home.run(["--session", "s", "--max-tokens", "1", "one"]).expect(0);
    home.run(["--session", "s", "--max-tokens", "1", "two"]).expect(0);
    let open = id(home.run(["--session", "s", "--detach", "endless"]));
    let refused = home.run(["sessions", "undo", "s"]).expect(6);
    assert!(refused.stderr.contains(&open), "{}", refused.stderr);
    home.run(["cancel", &open]).expect(0);
    let first = show(&home, "s")["conversation"][0]["job"].as_str().unwrap().to_owned();
    fs::remove_dir_all(home.workspace("output").join(first)).unwrap();
    let refused = home.run(["sessions", "undo", "s"]).expect(6);
    assert!(refused.stderr.contains("what was said before is gone"), "{}", refused.stderr);
}

#[test]
fn a_conversation_is_exported_for_programs_and_for_people() {
    let home = TestHome::new();
    home.run(["--session", "s", "-s", "Brief", "Hello"]).expect(0);
    let json = home.run(["sessions", "export", "s"]).expect(0).json();
    assert_eq!(json["messages"][0], json!({"role": "system", "content": "Brief"}));
    assert_eq!(json["messages"][2]["content"], "lorem ipsum dolor sit amet Hello.");
    let file = home.root().join("s.md");
    let path = file.to_str().unwrap();
    home.run(["sessions", "export", "s", "--format", "markdown", "-o", path]).expect(0);
    assert!(fs::read_to_string(&file).unwrap().contains("## Question\n\nHello\n"));
    home.run(["sessions", "export", "s", "-o", path]).expect(64);
    let nowhere = home.root().join("no/such.md");
    home.run(["sessions", "export", "s", "-o", nowhere.to_str().unwrap()]).expect(7);
}
