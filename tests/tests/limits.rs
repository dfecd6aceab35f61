//! What no client can take from others: memory, connections and the daemon.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};
use threadrunner_tests::{Finished, Frames, TestHome, eventually, process_is_alive, program};

const ANSWER: &str = "lorem ipsum dolor sit amet Hello.";

/// A process's peak memory in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// `threadrunner` under a limit set by the shell.
fn limited(home: &TestHome, limit: &str, arguments: &[&str]) -> Command {
    let mut shell = Command::new("/bin/sh");
    let script = format!("{limit}; exec \"$0\" \"$@\"");
    shell.env_clear().args(["-c", &script]).arg(program("threadrunner")).args(arguments);
    for (name, value) in home.threadrunner(arguments).get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

/// Runs a job to its end and returns its id.
fn done(home: &TestHome) -> String {
    let id = home.run(["--detach", "Hello"]).expect(0).stdout.trim().to_owned();
    home.run(["wait", &id]).expect(0);
    id
}

fn set_limit(pid: u32, resource: Resource, current: Option<u64>) -> Option<u64> {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    let maximum = getrlimit(resource).maximum;
    prlimit(pid, resource, Rlimit { current, maximum }).unwrap().current
}

#[test]
fn answers_that_nobody_reads_take_bounded_memory() {
    let home = TestHome::new();
    let id = done(&home);
    let result = home.workspace("output").join(&id).join("result.txt");
    fs::write(result, vec![b'a'; 8 << 20]).unwrap();
    let mut unread: Vec<Frames> = Vec::new();
    for op in ["result", "follow"] {
        let mut connection = home.connect();
        for number in 0..200 {
            connection.send(&json!({"v": 1, "id": number, "op": op, "job": id}));
        }
        unread.push(connection);
    }
    // A client that reads is answered.
    let mut reader = home.connect();
    let answer = reader.ask(&json!({"v": 1, "id": 1, "op": "result", "job": id}));
    assert_eq!(answer[0]["data"]["text"].as_str().map(str::len), Some(8 << 20));
    let pid = home.daemon_pid();
    assert!(peak_memory(pid) < 300 << 20, "{} bytes", peak_memory(pid));
}

#[test]
fn frames_that_never_end_take_bounded_memory_and_make_way() {
    let home = TestHome::new();
    let pid = home.daemon_pid();
    let length: u32 = 63 << 20;
    for _ in 0..9 {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        // The thread ends with the daemon at the latest.
        thread::spawn(move || {
            let _ = stream.write_all(&length.to_le_bytes());
            let part = vec![b' '; 1 << 20];
            let _ = (1..63).try_for_each(|_| stream.write_all(&part));
            let _ = stream.read(&mut [0]);
        });
    }
    let mut client = home.connect();
    client.send(&json!({"v": 1, "id": 1, "op": "ps", "x": "x".repeat(40 << 20)}));
    assert_eq!(client.answer()[0]["code"], "invalid_request");
    assert!(peak_memory(pid) < 480 << 20, "{} bytes", peak_memory(pid));
}

#[test]
fn a_request_of_very_many_values_is_refused_before_they_take_memory() {
    let home = TestHome::new();
    let pid = home.daemon_pid();
    let frame = format!(r#"{{"v":1,"id":1,"op":"ps","x":[{}0]}}"#, "0,".repeat(15 << 20));
    let mut client = home.connect();
    client.send_bytes(&u32::try_from(frame.len()).unwrap().to_le_bytes());
    client.send_bytes(frame.as_bytes());
    let answer = client.answer();
    assert!(answer[0]["error"].as_str().unwrap().contains("values"), "{answer:?}");
    assert!(peak_memory(pid) < 200 << 20, "{} bytes", peak_memory(pid));
}

/// A home whose daemon serves few connections, and how many.
fn narrow_home() -> (TestHome, usize) {
    let home = TestHome::new();
    let started = limited(&home, "ulimit -n 128", &["daemon", "start"]).output().unwrap();
    Finished::from(started).expect(0);
    (home, 24)
}

#[test]
fn idle_connections_lock_nobody_out() {
    let (home, most) = narrow_home();
    let mut watching = Frames::connect(&home.socket());
    watching.send(&json!({"v": 1, "id": 1, "op": "watch"}));
    watching.receive().unwrap();
    let idle: Vec<_> = (0..2 * most).map(|_| UnixStream::connect(home.socket()).unwrap()).collect();
    home.run(["status"]).expect(0);
    // A connection that has just arrived may yet ask something.
    eventually("there is a place again", || (home.run(["Hello"]).code == 0).then_some(()));
    assert_eq!(home.run(["Hello"]).expect(0).stdout.trim_end(), ANSWER);
    // A client that waits for something is not idle.
    assert_eq!(watching.receive().unwrap()["event"], "changed");
    drop(idle);
}

#[test]
fn where_all_connections_are_busy_the_daemon_can_still_be_looked_after() {
    let (home, most) = narrow_home();
    let mut busy = Vec::new();
    for _ in 0..most {
        let mut watching = Frames::connect(&home.socket());
        watching.send(&json!({"v": 1, "id": 1, "op": "watch"}));
        assert_eq!(watching.receive().unwrap()["event"], "watching");
        busy.push(watching);
    }
    let refused = home.run(["Hello"]).expect(5);
    assert!(refused.stderr.contains("connections"), "{}", refused.stderr);
    home.run(["ps"]).expect(0);
    home.run(["daemon", "stop"]).expect(0);
}

#[test]
fn a_daemon_that_could_serve_nobody_refuses_to_start() {
    let home = TestHome::new();
    for arguments in [&["Hello"][..], &["daemon", "run"]] {
        let refused = limited(&home, "ulimit -n 20", arguments).output().unwrap();
        let refused = Finished::from(refused).expect(2);
        assert!(refused.stderr.contains("ulimit -n"), "{}", refused.stderr);
    }
}

#[test]
fn a_standard_error_that_is_gone_is_no_reason_to_end() {
    let home = TestHome::new();
    let mut daemon = home.threadrunner(["daemon", "run"]).spawn().unwrap();
    drop(daemon.stderr.take());
    eventually("it serves", || UnixStream::connect(home.socket()).ok());
    assert_eq!(home.run(["Hello"]).expect(0).stdout.trim_end(), ANSWER);
    assert_eq!(home.daemon_pid(), daemon.id());
    home.run(["daemon", "stop"]).expect(0);
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}

#[test]
fn files_that_may_not_grow_are_an_error_and_not_the_end() {
    let home = TestHome::new();
    home.run(["Hello"]).expect(0);
    let pid = home.daemon_pid();
    let usual = set_limit(pid, Resource::Fsize, Some(0));
    let refused = home.run(["Hello"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("ulimit -f"), "{}", refused.stderr);
    assert!(process_is_alive(pid));
    set_limit(pid, Resource::Fsize, usual);
    assert_eq!(home.run(["Hello"]).expect(0).stdout.trim_end(), ANSWER);
    assert_eq!(home.daemon_pid(), pid);
}

#[test]
fn a_submission_of_very_many_references_is_refused_at_once() {
    let home = TestHome::new();
    let id = done(&home);
    let reference = format!("{{{{result:{id}}}}}");
    let mut client = home.connect();
    let mut ask = |count: usize, more: Value| {
        let mut request = json!({"v": 1, "id": 1, "op": "submit", "template": true});
        request["prompt"] = json!(reference.repeat(count));
        for (key, value) in more.as_object().unwrap() {
            request[key] = value.clone();
        }
        client.ask(&request).pop().unwrap()
    };
    assert!(ask(256, json!({}))["data"]["job"].is_string());
    for (count, more) in [
        (100_000, json!({})),
        (256, json!({"system": reference})),
        (256, json!({"messages": [{"role": "user", "content": reference}]})),
    ] {
        let refused = ask(count, more);
        assert_eq!(refused["code"], "invalid_request");
        assert!(refused["error"].as_str().unwrap().contains("256"), "{refused}");
    }
    let many: Vec<_> = (0..10_001).map(|_| &id).collect();
    assert_eq!(ask(1, json!({"after": many}))["code"], "invalid_request");
    // A prompt that is not searched for references may contain any number of them.
    assert!(ask(100_000, json!({"template_bytes": 0}))["data"]["job"].is_string());
}
