//! Any directory as a workspace: using it makes it one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;
use threadrunner_tests::{Finished, TestHome, eventually, process_is_alive};

/// A path beside the home.
fn beside(home: &TestHome, name: &str) -> PathBuf {
    home.root().parent().expect("a home is in a directory").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("tests use UTF-8")
}

fn names(directory: PathBuf) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Puts a job into a workspace as nrvna-ai's clients do.
fn put(home: &TestHome, workspace: &Path, name: &str, prompt: &str) {
    let aside = beside(home, "aside");
    fs::create_dir_all(&aside).expect("a directory can be made");
    fs::write(aside.join("prompt.txt"), prompt).expect("a prompt can be written");
    let ready = workspace.join("input/ready").join(name);
    fs::rename(aside, ready).expect("a directory can be renamed");
}

#[test]
fn a_directory_is_a_workspace_from_its_first_prompt_on() {
    let home = TestHome::new();
    let ws = beside(&home, "ws");
    let mut first = home.threadrunner(["-w", "./ws", "Hello"]);
    first.current_dir(beside(&home, ""));
    let first = Finished::from(first.output().unwrap()).expect(0);
    assert_eq!(first.stdout, "lorem ipsum dolor sit amet Hello.\n");
    assert_eq!(names(ws.join("output")).len(), 1);
    assert_eq!(home.jobs_in("output"), [] as [&str; 0]);
    let listed = home.run(["jobs", "--json", "-w", text(&ws)]).expect(0).json();
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(listed["jobs"][0]["workspace"], text(&ws));
    // A search in all workspaces finds it too.
    home.run(["result", "last"]).expect(0);
    // Through a link it is the same workspace.
    std::os::unix::fs::symlink("ws", beside(&home, "link")).unwrap();
    home.run(["-w", text(&beside(&home, "link")), "Hello"]).expect(0);
    assert_eq!(names(ws.join("output")).len(), 2);
    let paths = home.status()["workspaces"].as_array().unwrap().len();
    assert_eq!(paths, 2);
    // Clients of nrvna-ai see that a daemon does the jobs, and its pid.
    let pid = fs::read_to_string(ws.join(".nrvnad.pid")).unwrap();
    assert_eq!(pid, home.daemon_pid().to_string());
    put(&home, &ws, "123", "one");
    let result = ws.join("output/123/result.txt");
    let answer = eventually("it is answered", || fs::read_to_string(&result).ok());
    assert_eq!(answer, "lorem ipsum dolor sit amet one.");
    home.run(["daemon", "stop"]).expect(0);
    assert!(!ws.join(".nrvnad.pid").exists());
}

#[test]
fn what_is_queued_in_a_directory_is_run_by_the_next_daemon() {
    let home = TestHome::new().config("grace = 0\n").dummy(&json!({"step_ms": 60_000}));
    let ws = beside(&home, "ws");
    let id = home.run(["-w", text(&ws), "--detach", "Hello"]).expect(0).stdout;
    let id = id.trim();
    eventually("it runs", || ws.join("processing").join(id).exists().then_some(()));
    home.run(["daemon", "stop"]).expect(0);
    assert!(ws.join("input/ready").join(id).is_dir());
    let home = home.with("THREADRUNNER_DUMMY", "{}");
    home.run(["wait", id]).expect(0);
    home.run(["result", id]).expect(0);
    // A workspace that is gone is forgotten.
    home.run(["daemon", "stop"]).expect(0);
    fs::remove_dir_all(&ws).unwrap();
    home.run(["result", id]).expect(7);
    assert_eq!(home.status()["workspaces"].as_array().unwrap().len(), 1);
}

#[test]
fn a_conversation_in_a_directory_goes_on_there() {
    let home = TestHome::new().dummy(&json!({"transcript": true}));
    let ws = beside(&home, "ws");
    home.run_with_input(["chat", "-w", text(&ws), "--session", "s"], b"one\n").expect(0);
    let next = home.run(["-w", text(&ws), "-c", "two"]).expect(0);
    assert!(next.stdout.contains("user. one."), "{}", next.stdout);
    home.run(["sessions", "show", "-w", text(&ws), "s"]).expect(0);
    home.run(["-c", "three"]).expect(7);
    // The same directory by another path.
    let detour = ws.join("../ws");
    home.run(["sessions", "undo", "-w", text(&detour), "s"]).expect(0);
}

#[test]
fn a_directory_that_cannot_be_a_workspace_is_refused() {
    let home = TestHome::new().config("[workspaces.code]\n");
    home.run(["Hello"]).expect(0);
    let full = beside(&home, "full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("thesis.tex"), "precious").unwrap();
    let refused = home.run(["-w", text(&full), "Hello"]).expect(64);
    assert!(refused.stderr.contains("has files in it"), "{}", refused.stderr);
    assert_eq!(names(full), ["thesis.tex"]);
    let nowhere = beside(&home, "nowhere");
    home.run(["jobs", "-w", text(&nowhere)]).expect(7);
    assert!(!nowhere.exists());
    let inside = home.workspace("mine");
    let refused = home.run(["-w", text(&inside), "Hello"]).expect(64);
    assert!(refused.stderr.contains("the workspace 'default'"), "{}", refused.stderr);
    let ws = beside(&home, "ws");
    home.run(["-w", text(&ws), "Hello"]).expect(0);
    let refused = home.run(["-w", text(&ws.join("inside")), "Hello"]).expect(64);
    assert!(refused.stderr.contains("one contains the other"), "{}", refused.stderr);
    assert!(!ws.join("inside").exists());
    // The path of a workspace named in the configuration is the same workspace.
    fs::create_dir_all(home.root().join("workspaces")).unwrap();
    let code = home.root().join("workspaces/code");
    home.run(["-w", text(&code), "Hello"]).expect(0);
    assert_eq!(home.run(["jobs", "-w", "code", "--ids"]).expect(0).stdout.lines().count(), 1);
}

#[test]
fn a_workspace_in_which_nrvna_ais_daemon_works_is_left_to_it() {
    let home = TestHome::new();
    let ws = beside(&home, "ws");
    fs::create_dir_all(ws.join("input/ready")).unwrap();
    let mut other = std::process::Command::new("sh")
        .args(["-c", "echo nrvnad > /proc/$$/comm; echo ready; read end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = other.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    fs::write(ws.join(".nrvnad.pid"), other.id().to_string()).unwrap();
    let refused = home.run(["-w", text(&ws), "Hello"]).expect(64);
    assert!(refused.stderr.contains(&format!("process {}", other.id())), "{}", refused.stderr);
    drop(other.stdin.take());
    other.wait().unwrap();
    home.run(["-w", text(&ws), "Hello"]).expect(0);
}

#[test]
fn a_daemon_for_a_directory_is_one_line() {
    let home = TestHome::new();
    let ws = beside(&home, "ws");
    let arguments = ["daemon", "run", "--model", "dummy", "--workspace", text(&ws)];
    let mut daemon = home.threadrunner(arguments).stdout(Stdio::null()).spawn().unwrap();
    eventually("it serves", || ws.join(".nrvnad.pid").exists().then_some(()));
    put(&home, &ws, "123", "one");
    let result = ws.join("output/123/result.txt");
    eventually("it is answered", || fs::read_to_string(&result).ok());
    let pid = daemon.id();
    // A running daemon is no success for a request with another workspace.
    let second = home.run(["daemon", "run", "--workspace", text(&beside(&home, "other"))]);
    assert!(second.expect(64).stderr.contains("already running"));
    home.kill(pid, Signal::TERM);
    assert!(daemon.wait().unwrap().success());
    assert!(!process_is_alive(pid) && !ws.join(".nrvnad.pid").exists());
}

#[test]
fn a_directory_with_files_is_no_workspace_however_it_is_named() {
    let home = TestHome::new();
    home.run(["Hello"]).expect(0);
    let pid = home.daemon_pid();
    let full = beside(&home, "full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("thesis.tex"), "precious").unwrap();
    let with = |workspace: &Path, arguments: &[&str]| {
        let mut command = home.threadrunner(arguments);
        command.env("THREADRUNNER_WORKSPACE", workspace);
        Finished::from(command.output().unwrap())
    };
    let refused = with(&full, &["daemon", "restart"]).expect(64);
    assert!(refused.stderr.contains("not restarted: "), "{}", refused.stderr);
    assert!(refused.stderr.contains("has files in it and is not a workspace"));
    // Nor can one be created everywhere.
    let refused = with(Path::new("/proc/nope"), &["daemon", "restart"]);
    assert!(refused.stderr.contains("not restarted: "), "{}", refused.stderr);
    assert_ne!(refused.code, 0);
    assert_eq!(home.daemon_pid(), pid);
    home.run(["daemon", "stop"]).expect(0);
    for arguments in [&["Hello"][..], &["daemon", "start"], &["daemon", "run"]] {
        let refused = with(&full, arguments).expect(64);
        assert!(refused.stderr.contains("has files in it and is not a workspace"), "{refused:?}");
    }
    let refused = home.run(["daemon", "run", "--workspace", text(&full)]).expect(64);
    assert!(refused.stderr.contains("has files in it and is not a workspace"), "{refused:?}");
    assert_eq!(names(full.clone()), ["thesis.tex"]);
    let home = home.config(&format!("[workspaces.full]\npath = {full:?}\n"));
    let refused = home.run(["-w", "full", "Hello"]).expect(64);
    assert!(refused.stderr.contains("has files in it and is not a workspace"), "{refused:?}");
    home.run(["Hello"]).expect(0);
    assert_eq!(names(full), ["thesis.tex"]);
}

#[test]
fn a_daemon_that_runs_obeys_the_workspace_of_the_callers_environment() {
    let home = TestHome::new();
    home.run(["Hello"]).expect(0);
    let ws = beside(&home, "ws");
    let with = |workspace: &Path, arguments: &[&str]| {
        let mut command = home.threadrunner(arguments);
        command.env("THREADRUNNER_WORKSPACE", workspace);
        Finished::from(command.output().unwrap()).expect(0)
    };
    with(&ws, &["Hello"]);
    with(&ws, &["--session", "s", "Hello"]);
    with(&ws, &["-c", "Hello"]);
    assert_eq!((names(ws.join("output")).len(), home.jobs_in("output").len()), (3, 1));
    // Naming the daemon's own workspace makes no second one.
    with(&home.workspace(""), &["Hello"]);
    assert_eq!(home.jobs_in("output").len(), 2);
    assert_eq!(home.status()["workspaces"].as_array().unwrap().len(), 2);
}
