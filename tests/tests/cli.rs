//! `threadrunner` as scripts use it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;
use threadrunner_tests::{Finished, TestHome, eventually};

#[test]
fn the_dummy_answers_as_promised() {
    let home = TestHome::new();
    let finished = home.run(["Hello, how are you?"]).expect(0);
    assert_eq!(finished.stdout, "lorem ipsum dolor sit amet Hello. how. are. you.\n");
    assert_eq!(finished.stderr, "");
}

#[test]
fn a_prompt_comes_from_arguments_stdin_or_both() {
    let home = TestHome::new();
    let answer = |finished: Finished| finished.expect(0).stdout;
    assert!(answer(home.run(["one", "two"])).ends_with("one. two.\n"));
    let none: [&str; 0] = [];
    assert!(answer(home.run_with_input(none, b"three four")).ends_with("three. four.\n"));
    assert!(answer(home.run_with_input(["one"], b"two\n")).ends_with("one. two.\n"));
}

#[test]
fn a_prompt_that_is_a_commands_name_works_behind_run() {
    let home = TestHome::new();
    assert!(home.run(["run", "status"]).expect(0).stdout.ends_with("status.\n"));
    assert!(home.run(["--", "ps"]).expect(0).stdout.ends_with("ps.\n"));
}

#[test]
fn wrong_usage_is_exit_code_64() {
    let home = TestHome::new();
    for arguments in [&["--no-such-flag"][..], &["--temperature", "hot", "x"], &["wait"], &[""]] {
        let finished = home.run(arguments).expect(64);
        assert!(!finished.stderr.is_empty());
    }
    let none: [&str; 0] = [];
    home.run_with_input(none, b"").expect(64);
    let finished = home.run_with_input(none, b"caf\xe9").expect(64);
    assert!(finished.stderr.contains("UTF-8"), "{}", finished.stderr);
    home.run(["--help"]).expect(0);
    home.run(["--version"]).expect(0);
}

#[test]
fn json_is_one_object_also_when_it_fails() {
    let home = TestHome::new();
    let answer = home.run(["--json", "Hello"]).expect(0).json();
    assert_eq!(answer["text"], "lorem ipsum dolor sit amet Hello.");
    for key in ["job", "model", "finish_reason", "usage", "timings"] {
        assert!(!answer[key].is_null(), "{key} in {answer}");
    }
    let home = TestHome::new().dummy(&json!({"load_error": "no such luck"}));
    let answer = home.run(["--json", "Hello"]).expect(3).json();
    assert_eq!(answer["error"]["code"], "model_load", "{answer}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = TestHome::new().dummy(&json!({"step_ms": 5, "words": 100_000}));
    let mut client = home.threadrunner(["Hello"]).spawn().unwrap();
    drop(client.stdout.take());
    let finished = Finished::from(client.wait_with_output().unwrap()).expect(0);
    assert_eq!(finished.stderr, "");
    eventually("its job is canceled", || (home.jobs_in("failed").len() == 1).then_some(()));
}

#[test]
fn an_interrupt_cancels_the_job_and_is_exit_code_130() {
    let home = TestHome::new().dummy(&json!({"step_ms": 5, "words": 100_000}));
    let mut client = home.threadrunner(["Hello"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = Vec::new();
    BufReader::new(client.stdout.as_mut().unwrap()).read_until(b' ', &mut first).unwrap();
    home.kill(client.id(), Signal::INT);
    Finished::from(client.wait_with_output().unwrap()).expect(130);
    eventually("its job is canceled", || (home.jobs_in("failed").len() == 1).then_some(()));
}

#[test]
fn a_command_for_every_state_of_the_daemon() {
    let home = TestHome::new();
    let stopped = home.run(["daemon", "status"]);
    assert_ne!(stopped.code, 0, "{stopped:?}");
    home.run(["daemon", "start"]).expect(0);
    home.run(["daemon", "status"]).expect(0);
    let before = home.daemon_pid();
    home.run(["daemon", "restart"]).expect(0);
    assert_ne!(home.daemon_pid(), before);
    let logs = home.run(["daemon", "logs"]).expect(0);
    assert!(logs.stdout.contains("ready"), "{}", logs.stdout);
    home.run(["daemon", "stop"]).expect(0);
    assert_ne!(home.run(["daemon", "status"]).code, 0);
}
