//! Programs that run when a job has ended.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};
use threadrunner_tests::{TestHome, eventually, process_is_alive};

/// Writes a shell script beside the home.
fn script(home: &TestHome, body: &str) -> PathBuf {
    let path = home.root().with_file_name("hook");
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a script can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("it can be executable");
    path
}

fn detach(home: &TestHome, hook: &str, prompt: &str) -> String {
    home.run(["--detach", "--on-done", hook, prompt]).expect(0).stdout.trim().to_owned()
}

/// A hook's record and its output, once it has ended and no other is due.
fn outcome(home: &TestHome, place: &str, id: &str) -> (Value, String) {
    let directory = home.workspace(place).join(id);
    let record = eventually("the hook has run", || {
        let record = fs::read(directory.join("on_done.json")).ok()?;
        home.jobs_in(".hooks").is_empty().then_some(record)
    });
    let log = fs::read_to_string(directory.join("on_done.log")).expect("a hook has a log");
    (serde_json::from_slice(&record).expect("a record is JSON"), log)
}

#[test]
fn a_program_is_run_with_the_jobs_directory_when_the_job_is_done() {
    let home = TestHome::new();
    let hook = script(
        &home,
        r#"echo "$THREADRUNNER_JOB_ID $THREADRUNNER_JOB_STATUS $#"; cat "$1/result.txt"; pwd >&2"#,
    );
    // Found by its name in PATH, as a shell finds it.
    let path = format!("{}:/usr/bin:/bin", hook.parent().unwrap().display());
    let mut detached = home.threadrunner(["--detach", "--on-done", "hook", "Hello"]);
    let detached = threadrunner_tests::Finished::from(detached.env("PATH", path).output().unwrap());
    let id = detached.expect(0).stdout.trim().to_owned();
    let (record, log) = outcome(&home, "output", &id);
    let directory = home.workspace("output").join(&id);
    let expected =
        format!("{id} done 1\nlorem ipsum dolor sit amet Hello.{}\n", directory.display());
    assert_eq!(log, expected);
    assert_eq!((&record["exit_code"], &record["program"]), (&json!(0), &json!(hook)));
    let listed = home.run(["jobs", "--json"]).expect(0).json();
    assert_eq!(listed["jobs"][0]["on_done"], record);
}

#[test]
fn a_job_that_is_canceled_has_its_program_run_too_also_when_it_never_began() {
    let home = TestHome::new().dummy(&json!({"step_ms": 20, "words": 1_000_000}));
    let hook = script(&home, "echo $THREADRUNNER_JOB_STATUS; exit 3");
    let hook = hook.to_str().unwrap();
    let running = detach(&home, hook, "Hello");
    let held = ["--detach", "--on-done", hook, "--after", &running, "Hello"];
    let held = home.run(held).expect(0).stdout.trim().to_owned();
    home.run(["cancel", &running]).expect(0);
    let (record, log) = outcome(&home, "failed", &running);
    assert_eq!((&record["exit_code"], log.as_str()), (&json!(3), "canceled\n"));
    let (_, log) = outcome(&home, "failed", &held);
    assert_eq!(log, "failed\n");
}

#[test]
fn a_program_over_its_time_is_killed_with_all_it_started() {
    let home = TestHome::new().config("hook_timeout = 0.2");
    let hook = script(&home, "sleep 1000 & echo $!; wait");
    let id = detach(&home, hook.to_str().unwrap(), "Hello");
    let (record, log) = outcome(&home, "output", &id);
    assert_eq!(record["timed_out"], json!(true), "{record}");
    let child: u32 = log.trim().parse().unwrap();
    eventually("its child is gone", || (!process_is_alive(child)).then_some(()));
}

/// A job whose hook runs until it is killed, and the hook's process. Run again, the hook says so
/// and ends.
fn runs_on(home: &TestHome) -> (String, u32) {
    let hook = script(
        home,
        r#"if [ -e "$HOME/began" ]; then echo again; else echo $$ > "$HOME/began"; exec sleep 1000; fi"#,
    );
    let id = detach(home, hook.to_str().expect("a path is UTF-8"), "Hello");
    let began = home.root().with_file_name("began");
    let process = || fs::read_to_string(&began).ok()?.trim().parse().ok();
    (id, eventually("it runs", process))
}

#[test]
fn a_program_that_a_crash_cut_short_is_run_again() {
    let home = TestHome::new();
    let (id, first) = runs_on(&home);
    let pid = home.daemon_pid();
    home.kill(pid, Signal::KILL);
    eventually("the daemon is gone", || (!process_is_alive(pid)).then_some(()));
    eventually("the program went with it", || (!process_is_alive(first)).then_some(()));
    home.start_daemon();
    assert_eq!(outcome(&home, "output", &id).1, "again\n");
}

#[test]
fn what_a_program_has_started_ends_with_a_killed_daemon_too() {
    let home = TestHome::new();
    let hook = script(&home, "sleep 1000 & echo $! > \"$HOME/child\"; wait");
    detach(&home, hook.to_str().unwrap(), "Hello");
    let child = home.root().with_file_name("child");
    let child: u32 = eventually("it runs", || fs::read_to_string(&child).ok()?.trim().parse().ok());
    home.kill(home.daemon_pid(), Signal::KILL);
    eventually("its child is gone", || (!process_is_alive(child)).then_some(()));
}

#[test]
fn a_log_has_a_bound() {
    let home = TestHome::new();
    let hook = script(&home, "echo first; yes | head -c 10000000; echo last >&2; exit 4");
    let id = detach(&home, hook.to_str().unwrap(), "Hello");
    let (record, log) = outcome(&home, "output", &id);
    assert_eq!(record["exit_code"], json!(4));
    assert!(log.starts_with("first\ny\n") && log.len() < (1 << 20) + 100, "{}", log.len());
    assert!(log.ends_with("(output truncated to 1 MiB)\n"));
}

#[test]
fn a_program_is_done_when_it_has_ended_whatever_it_leaves_running() {
    let home = TestHome::new();
    let hook = script(&home, "sleep 1000 & echo $!");
    let id = detach(&home, hook.to_str().unwrap(), "Hello");
    let (record, log) = outcome(&home, "output", &id);
    assert_eq!(record["exit_code"], json!(0));
    home.kill(log.trim().parse().unwrap(), Signal::KILL);
}

#[test]
fn a_daemon_that_is_stopped_ends_its_programs_and_the_next_runs_them_again() {
    let home = TestHome::new();
    let (id, first) = runs_on(&home);
    home.run(["daemon", "stop", "--now"]).expect(0);
    eventually("it is gone too", || (!process_is_alive(first)).then_some(()));
    home.start_daemon();
    assert_eq!(outcome(&home, "output", &id).1, "again\n");
}

#[test]
fn a_retried_job_has_its_program_run_at_each_end() {
    let home = TestHome::new().dummy(&json!({"step_ms": 20, "words": 1_000_000}));
    let hook = script(&home, r#"echo "$THREADRUNNER_JOB_STATUS" >> "$HOME/ends""#);
    let id = detach(&home, hook.to_str().unwrap(), "Hello");
    home.run(["cancel", &id]).expect(0);
    outcome(&home, "failed", &id);
    home.run(["retry", &id]).expect(0);
    home.run(["cancel", &id]).expect(0);
    let ends = home.root().with_file_name("ends");
    eventually("it has run twice", || {
        (fs::read_to_string(&ends).ok()? == "canceled\ncanceled\n").then_some(())
    });
}

#[test]
fn what_cannot_be_run_is_refused_at_once() {
    let home = TestHome::new();
    let hook = script(&home, "true");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o600)).unwrap();
    for (program, why) in [
        (hook.to_str().unwrap(), "not executable"),
        ("/no/such/program", "cannot be found"),
        ("/tmp", "not a file"),
        ("no-such-program", "PATH"),
    ] {
        let refused = home.run(["--detach", "--on-done", program, "Hello"]).expect(64);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o707)).unwrap();
    let refused = home.run(["--on-done", hook.to_str().unwrap(), "Hello"]).expect(64);
    assert!(refused.stderr.contains("by everyone"), "{}", refused.stderr);
    assert!(home.jobs_in("output").is_empty());
}
