//! `threadrunner` as scripts use it.

use std::fs;
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
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_exit_code_74_and_never_silent() {
    let home = TestHome::new();
    home.start_daemon();
    let to_full = |arguments: &[&str]| {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        Finished::from(home.threadrunner(arguments).stdout(full).output().unwrap())
    };
    for arguments in [
        &["Hello"][..],
        &["--json", "Hello"],
        &["--detach", "--json", "Hello"],
        &["models", "--json"],
        &["status", "--json"],
        &["--help"],
        &["completions", "bash"],
    ] {
        let finished = to_full(arguments).expect(74);
        assert!(finished.stderr.contains("No space left"), "{arguments:?}: {finished:?}");
    }
    // What failed before there was anything to write is told as well.
    let finished = to_full(&["result", "--json", "123"]).expect(7);
    assert!(finished.stderr.contains("123"), "{finished:?}");
    let finished = to_full(&["--json", "--no-such-flag"]).expect(64);
    assert!(finished.stderr.contains("--no-such-flag"), "{finished:?}");
}

#[test]
fn a_file_that_may_not_grow_is_exit_code_74_too() {
    let home = TestHome::new();
    home.start_daemon();
    for arguments in ["Hello", "--json Hello", "jobs --json"] {
        let command = home.threadrunner([""; 0]);
        let script = format!("ulimit -f 0; exec \"$0\" {arguments} > \"$1\"");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).arg(command.get_program()).arg(home.root().join("out"));
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let finished = Finished::from(shell.stdin(Stdio::null()).output().unwrap()).expect(74);
        assert!(finished.stderr.contains("File too large"), "{arguments}: {finished:?}");
    }
}

#[test]
fn a_directory_in_the_place_of_a_file_is_no_bug() {
    let home = TestHome::new();
    home.start_daemon();
    let directory = home.root().to_str().unwrap();
    let input = home.root().join("in.jsonl");
    fs::write(&input, "{\"prompt\":\"Hello\"}\n").unwrap();
    let input = input.to_str().unwrap();
    home.run(["batch", directory]).expect(64);
    home.run(["batch", input, "-o", directory]).expect(64);
    home.run(["batch", input, "-o", &format!("{directory}/no/such")]).expect(7);
    home.run(["--session", "s", "Hello"]).expect(0);
    home.run(["sessions", "export", "s", "-o", directory]).expect(64);
    home.run(["daemon", "stop"]).expect(0);
    fs::create_dir(home.root().join("config.toml")).unwrap();
    let finished = home.run(["Hello"]).expect(64);
    assert!(finished.stderr.contains("config.toml: it is a directory"), "{finished:?}");
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
    assert_eq!(answer["code"], "model_load", "{answer}");
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
