//! The daemon's life: its start, its end, and what can go wrong with either.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;
use threadrunner_tests::{Finished, Frames, TestHome, eventually, process_is_alive};

const ANSWER: &str = "lorem ipsum dolor sit amet Hello.";

#[test]
fn ten_clients_at_once_make_one_daemon() {
    let home = TestHome::new();
    let clients: Vec<_> = (0..10).map(|_| home.threadrunner(["Hello"]).spawn().unwrap()).collect();
    for client in clients {
        let finished = Finished::from(client.wait_with_output().unwrap()).expect(0);
        assert_eq!(finished.stdout.trim_end(), ANSWER);
    }
    assert_eq!(home.log().matches("ready pid=").count(), 1, "{}", home.log());
}

#[test]
fn the_daemon_is_in_a_session_of_its_own_and_private() {
    let home = TestHome::new();
    let pid = home.daemon_pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let (group, session) = (fields[2], fields[3]);
    assert_eq!((group, session), (pid.to_string().as_str(), pid.to_string().as_str()));
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(home.socket()), 0o600);
    for directory in ["", "run", "cache", "models", "workspace"] {
        assert_eq!(mode(home.root().join(directory)), 0o700, "{directory}");
    }
}

#[test]
fn a_daemon_is_started_with_its_socket_as_old_clients_do() {
    let home = TestHome::new().config("");
    let socket = home.root().join("old.sock");
    let start = |socket: &std::path::Path| {
        home.command("threadrunner-daemon").arg("--socket").arg(socket).spawn().unwrap()
    };
    let mut daemon = start(&socket);
    eventually("it listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
    let frames = Frames::connect(&socket).ask(&json!({"v": 1, "prompt": "Hello", "stream": true}));
    assert_eq!(Frames::text(&frames), ANSWER);
    // The command line finds it, and so does a look for its log in the usual place.
    assert_eq!(home.run(["Hello"]).expect(0).stdout.trim_end(), ANSWER);
    assert_eq!(home.log().matches("ready pid=").count(), 1, "{}", home.log());
    let usual = home.root().parent().unwrap().join(".cache");
    let link = fs::read_dir(usual).unwrap().next().unwrap().unwrap().path();
    assert!(link.to_string_lossy().contains("/threadrunner-daemon-20"), "{}", link.display());
    assert!(fs::read_to_string(link).unwrap().contains("ready pid="));
    // One daemon for a home is enough, but one that listens on another socket is no success.
    Finished::from(start(&socket).wait_with_output().unwrap()).expect(0);
    let other = Finished::from(start(&home.root().join("x.sock")).wait_with_output().unwrap());
    assert!(other.expect(2).stderr.contains("old.sock"));
    home.run(["daemon", "stop"]).expect(0);
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn a_stale_socket_is_nobodys() {
    let home = TestHome::new();
    let pid = home.daemon_pid();
    home.kill(pid, Signal::KILL);
    eventually("it is gone", || (!process_is_alive(pid)).then_some(()));
    assert!(home.socket().exists());
    assert_eq!(home.run(["Hello"]).expect(0).stdout.trim_end(), ANSWER);
}

#[test]
fn a_daemon_that_cannot_start_says_why_at_once() {
    let home = TestHome::new().config("idle_timeout = \"soon\"\n");
    let finished = home.run(["Hello"]).expect(64);
    assert!(finished.stderr.contains("config.toml, line 1"), "{}", finished.stderr);

    let home = TestHome::new().with("THREADRUNNER_DAEMON", "/nowhere/threadrunner-daemon");
    let finished = home.run(["Hello"]).expect(2);
    assert!(finished.stderr.contains("/nowhere/threadrunner-daemon"), "{}", finished.stderr);

    let long = format!("/tmp/{}/daemon.sock", "x".repeat(120));
    let home = TestHome::new().with("THREADRUNNER_SOCKET", long);
    let finished = home.run(["Hello"]).expect(64);
    assert!(finished.stderr.contains("THREADRUNNER_SOCKET"), "{}", finished.stderr);
}

#[test]
fn a_workspace_that_cannot_be_made_is_named() {
    let home = TestHome::new().config("");
    fs::write(home.root().join("workspace"), "a file").unwrap();
    let finished = home.run(["Hello"]);
    assert_ne!(finished.code, 0);
    let workspace = home.root().join("workspace");
    assert!(finished.stderr.contains(workspace.to_str().unwrap()), "{}", finished.stderr);
}

#[test]
fn an_engine_that_is_missing_is_named_and_the_daemon_lives_on() {
    let home = TestHome::new().with("THREADRUNNER_ENGINE", "/nowhere/threadrunner-engine");
    let pid = home.daemon_pid();
    let finished = home.run(["Hello"]).expect(3);
    assert!(finished.stderr.contains("/nowhere/threadrunner-engine"), "{}", finished.stderr);
    assert_eq!(home.daemon_pid(), pid);
}

#[test]
fn a_stopping_daemon_lets_running_jobs_end() {
    let home = TestHome::new().dummy(&json!({"step_ms": 20, "words": 40}));
    let pid = home.daemon_pid();
    let client = home.threadrunner(["Hello"]).spawn().unwrap();
    eventually("it runs", || (home.jobs_in("processing").len() == 1).then_some(()));
    home.kill(pid, Signal::TERM);
    let finished = Finished::from(client.wait_with_output().unwrap()).expect(0);
    assert_eq!(finished.stdout.split_whitespace().count(), 40);
    eventually("the daemon ends", || (!process_is_alive(pid)).then_some(()));
    assert_eq!(home.jobs_in("output").len(), 1);
}

/// A home whose daemon was told to stop while a job of this many words runs. Returns the home, the
/// job and the daemon's process id.
fn stopping_home(words: u32) -> (TestHome, String, u32) {
    let home =
        TestHome::new().config("grace = 3600\n").dummy(&json!({"step_ms": 20, "words": words}));
    let id = home.run(["--detach", "Hello"]).expect(0).stdout.trim().to_owned();
    eventually("it runs", || (home.jobs_in("processing") == [id.as_str()]).then_some(()));
    let pid = home.daemon_pid();
    let mut client = home.connect();
    home.kill(pid, Signal::TERM);
    eventually("it is stopping", || {
        let status = client.ask(&json!({"v": 1, "id": 1, "op": "status"}));
        (status[0]["data"]["stopping"] == true).then_some(())
    });
    (home, id, pid)
}

#[test]
fn a_second_signal_ends_the_grace_time_and_loses_nothing() {
    // Two signals that arrive before the first is handled count as one.
    let (home, id, pid) = stopping_home(100_000);
    home.kill(pid, Signal::TERM);
    eventually("the daemon ends", || (!process_is_alive(pid)).then_some(()));
    assert_eq!(home.jobs_in("input/ready"), [id.as_str()]);
}

#[test]
fn who_starts_the_daemon_while_it_is_stopping_gets_another_one() {
    let (home, id, pid) = stopping_home(150);
    let started = home.run(["daemon", "start"]).expect(0);
    assert!(started.stderr.contains("started"), "{}", started.stderr);
    assert!(!process_is_alive(pid));
    assert_ne!(home.daemon_pid(), pid);
    assert_eq!(home.jobs_in("output"), [id]);
}

#[test]
fn a_killed_daemon_leaves_its_client_with_code_2_and_its_job_to_the_next() {
    let home = TestHome::new().dummy(&json!({"step_ms": 20, "words": 100}));
    let pid = home.daemon_pid();
    let client = home.threadrunner(["Hello"]).stdout(Stdio::piped()).spawn().unwrap();
    eventually("it streams", || {
        let id = home.jobs_in("processing").pop()?;
        let list = Frames::connect(&home.socket()).ask(&json!({"v": 1, "id": 1, "op": "ps"}));
        let running = &list[0]["data"]["running"][0];
        (running["job"] == *id && running["text_bytes"].as_u64()? > 0).then_some(())
    });
    home.kill(pid, Signal::KILL);
    let finished = Finished::from(client.wait_with_output().unwrap()).expect(2);
    let id = home.jobs_in("processing").pop().unwrap();
    assert!(finished.stderr.contains(&id), "{}", finished.stderr);
    home.start_daemon();
    home.run(["wait", &id]).expect(0);
    assert_eq!(home.run(["result", &id]).expect(0).stdout.split_whitespace().count(), 100);
}

#[test]
fn the_engines_end_with_a_killed_daemon() {
    let home = TestHome::new();
    home.run(["Hello"]).expect(0);
    let list = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
    let engine = u32::try_from(list[0]["data"]["models"][0]["pid"].as_u64().unwrap()).unwrap();
    assert!(process_is_alive(engine));
    home.kill(home.daemon_pid(), Signal::KILL);
    eventually("the engine ends", || (!process_is_alive(engine)).then_some(()));
}

#[test]
fn a_daemon_whose_home_was_removed_ends_and_leaves_the_next_one_alone() {
    let home = TestHome::new();
    let first = home.daemon_pid();
    fs::remove_dir_all(home.root()).unwrap();
    let home = home.config("");
    let second = home.daemon_pid();
    assert_ne!(first, second);
    eventually("the first has ended", || (!process_is_alive(first)).then_some(()));
    assert!(home.socket().exists());
    home.run(["Hello"]).expect(0);
    assert_eq!(home.daemon_pid(), second);
}

#[test]
fn a_daemon_that_does_not_answer_is_told_of_and_can_always_be_ended() {
    let home = TestHome::new();
    home.run(["Hello"]).expect(0);
    let pid = home.daemon_pid();
    home.kill(pid, Signal::STOP);
    let [ps, stop] = [&["ps"][..], &["daemon", "stop"]]
        .map(|arguments| home.threadrunner(arguments).spawn().unwrap());
    for waiting in [ps, stop] {
        let failed = Finished::from(waiting.wait_with_output().unwrap()).expect(4);
        assert!(failed.stderr.contains("--now"), "{}", failed.stderr);
    }
    let restarted = home.run(["daemon", "restart", "--now"]).expect(0);
    let told = format!("the daemon (process {pid}) has not exited: sent SIGTERM");
    assert!(restarted.stderr.contains(&told), "{}", restarted.stderr);
    assert!(!process_is_alive(pid));
    assert_ne!(home.daemon_pid(), pid);
    home.run(["Hello"]).expect(0);
}
