//! Several workspaces in one daemon.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use threadrunner_tests::{Finished, TestHome, eventually};

const CODE: &str = "[workspaces.code]\ndefaults = { max_tokens = 2 }\n";

fn id(finished: Finished) -> String {
    finished.expect(0).stdout.trim().to_owned()
}

/// Submits a job of another program to the workspace `code`.
fn put(home: &TestHome, name: &str, prompt: &str) -> PathBuf {
    let aside = home.root().join("aside");
    fs::create_dir_all(&aside).expect("a directory can be made");
    fs::write(aside.join("prompt.txt"), prompt).expect("a prompt can be written");
    let workspace = home.root().join("workspaces/code");
    fs::rename(aside, workspace.join("input/ready").join(name))
        .expect("a directory can be renamed");
    workspace
}

#[test]
fn a_job_is_kept_in_the_workspace_it_was_given_to_and_found_in_any() {
    let home = TestHome::new().config(CODE);
    let there = id(home.run(["-w", "code", "--detach", "Hello there"]));
    let here = id(home.run(["--detach", "Hello here"]));
    home.run(["wait", &there, &here]).expect(0);
    assert!(home.root().join("workspaces/code/output").join(&there).is_dir());
    assert_eq!(home.jobs_in("output"), [here.as_str()]);
    // Its own workspace's default applies.
    assert_eq!(home.run(["result", &there]).expect(0).stdout, "lorem ipsum\n");
    assert_eq!(home.run(["result", "last"]).expect(0).stdout.trim_end(), {
        "lorem ipsum dolor sit amet Hello. here."
    });
    assert_eq!(home.run(["result", "-w", "code", "last"]).expect(0).stdout, "lorem ipsum\n");
    home.run(["result", "-w", "default", &there]).expect(7);
    let listed = |args: &[&str]| -> Vec<(Value, Value)> {
        let list = home.run(args).expect(0).json();
        let jobs = list["jobs"].as_array().unwrap();
        jobs.iter().map(|job| (job["job"].clone(), job["workspace"].clone())).collect()
    };
    let (of_code, of_default) = ((json!(there), json!("code")), (json!(here), json!("default")));
    assert_eq!(listed(&["jobs", "--json"]), [of_default.clone(), of_code.clone()]);
    assert_eq!(listed(&["jobs", "--json", "-w", "code"]), std::slice::from_ref(&of_code));
    assert_eq!(listed(&["jobs", "--json", "-w", "default"]), [of_default]);
    home.run(["prune", "--older-than", "0", "-w", "default"]).expect(0);
    assert_eq!(listed(&["jobs", "--json"]), [of_code]);
    assert_eq!(id(home.run(["rm", &there])), there);
    home.run(["result", &there]).expect(7);
}

#[test]
fn a_directory_put_into_a_workspace_runs_with_its_defaults() {
    let home = TestHome::new().config(CODE);
    home.start_daemon();
    let workspace = put(&home, "123", "one two three");
    let result = workspace.join("output/123/result.txt");
    let text = eventually("it is answered", || fs::read_to_string(&result).ok());
    assert_eq!(text, "lorem ipsum");
}

#[test]
fn an_id_that_two_workspaces_have_needs_the_name_of_one() {
    let home = TestHome::new().config(CODE);
    let here = id(home.run(["--detach", "Hello"]));
    home.run(["wait", &here]).expect(0);
    let workspace = put(&home, &here, "another Hello");
    let result = workspace.join("output").join(&here).join("result.txt");
    eventually("it is answered", || result.exists().then_some(()));
    let ambiguous = home.run(["result", &here]).expect(64);
    assert!(ambiguous.stderr.contains("in 'default'"), "{}", ambiguous.stderr);
    assert!(ambiguous.stderr.contains("in 'code'"), "{}", ambiguous.stderr);
    assert_eq!(home.run(["result", "-w", "code", &here]).expect(0).stdout, "lorem ipsum\n");
}

#[test]
fn a_workspace_that_cannot_be_used_takes_no_other_down() {
    let home = TestHome::new().config("[workspaces.bad]\n[workspaces.code]\n");
    fs::create_dir_all(home.root().join("workspaces")).unwrap();
    fs::write(home.root().join("workspaces/bad"), "in the way").unwrap();
    home.run(["Hello"]).expect(0);
    home.run(["-w", "code", "Hello"]).expect(0);
    for arguments in [&["-w", "bad", "Hello"][..], &["-w", "bad", "--detach", "Hello"]] {
        let refused = home.run(arguments);
        assert!(refused.stderr.contains("the workspace 'bad' cannot be used"), "{refused:?}");
        assert!(refused.stderr.contains("workspaces/bad"), "{refused:?}");
        assert_ne!(refused.code, 0);
    }
    let status = home.status();
    let bad = &status["workspaces"][1];
    assert_eq!(bad["name"], "bad");
    assert!(bad["error"]["message"].as_str().unwrap().contains("workspaces/bad"), "{bad}");
    let doctor = home.run(["doctor"]);
    assert!(doctor.stdout.contains("the workspace 'bad' cannot be used"), "{}", doctor.stdout);
    assert_ne!(doctor.code, 0);
}

/// Waits for the daemon to see that a workspace is gone: for a few milliseconds, it believes that one
/// is where it just was.
fn until_seen_to_be_gone(home: &TestHome) {
    eventually("the daemon sees that it is gone", || {
        let status = home.run(["status"]).expect(0).stdout;
        status.contains("is gone: its directory was removed").then_some(())
    });
}

#[test]
fn a_workspace_that_is_removed_takes_no_other_down_and_comes_back_when_it_is_used() {
    let home = TestHome::new().config(CODE);
    let ws = home.root().parent().unwrap().join("ws");
    let path = ws.to_str().unwrap();
    let kept = id(home.run(["--detach", "--session", "s", "Hello"]));
    home.run(["wait", &kept]).expect(0);
    let everywhere: [(&[&str], i32); 6] = [
        (&["jobs"], 0),
        (&["jobs", "--json"], 0),
        (&["sessions"], 0),
        (&["prune", "--older-than", "1h"], 0),
        (&["result", &kept], 0),
        (&["result", "123"], 7),
    ];
    let (code, default) = (home.root().join("workspaces/code"), home.workspace(""));
    for (at, (name, directory)) in
        [(path, &ws), ("code", &code), ("default", &default)].into_iter().enumerate()
    {
        home.run(["-w", name, "Hello"]).expect(0);
        fs::remove_dir_all(directory).unwrap();
        until_seen_to_be_gone(&home);
        for (arguments, code) in everywhere {
            // The kept job is in the default workspace.
            let code = if name == "default" && arguments == ["result", &kept] { 7 } else { code };
            home.run(arguments).expect(code);
        }
        assert!(home.run(["doctor"]).stdout.contains("is gone: its directory was removed"));
        assert!(!directory.exists());
        match at {
            // A directory is no workspace until the next prompt, though it is there again.
            0 => {
                home.run(["jobs", "-w", name]).expect(7);
                fs::create_dir(directory).unwrap();
            }
            1 => fs::create_dir(directory).unwrap(),
            _ => {}
        }
        home.run(["-w", name, "Hello"]).expect(0);
        home.run(["-w", name, "--detach", "Hello"]).expect(0);
        let listed = home.run(["jobs", "--ids", "-w", name]).expect(0).stdout;
        assert_eq!(listed.lines().count(), 2, "{listed}");
        let status = home.status();
        assert!(status["workspaces"].as_array().unwrap().iter().all(|it| it["error"].is_null()));
    }
    // Only its content is removed, and what begins with a dot is left.
    for directory in ["input", "processing", "output", "failed"] {
        fs::remove_dir_all(ws.join(directory)).unwrap();
    }
    until_seen_to_be_gone(&home);
    home.run(["-w", path, "Hello"]).expect(0);
    assert_eq!(home.run(["jobs", "--ids", "-w", path]).expect(0).stdout.lines().count(), 1);
    // Moved away and back, it is what it was; moved for good, it is a workspace there.
    let elsewhere = ws.with_file_name("elsewhere");
    fs::rename(&ws, &elsewhere).unwrap();
    home.run(["jobs"]).expect(0);
    fs::rename(&elsewhere, &ws).unwrap();
    home.run(["-w", path, "Hello"]).expect(0);
    assert_eq!(home.run(["jobs", "--ids", "-w", path]).expect(0).stdout.lines().count(), 2);
}

#[test]
fn nobody_hangs_on_the_jobs_of_a_workspace_that_is_removed() {
    let home = TestHome::new().config("grace = 0\n[workspaces.code]\n[engine]\nsequences = 1\n");
    let home = home.dummy(&json!({"step_ms": 100, "words": 20}));
    let code = home.root().join("workspaces/code");
    let spawn = |arguments: &[&str]| {
        let mut command = home.threadrunner(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let running = spawn(&["-w", "code", "Hello"]);
    eventually("it runs", || fs::read_dir(code.join("processing")).ok()?.next()).unwrap();
    let queued = id(home.run(["-w", "code", "--detach", "Hello"]));
    let held = spawn(&["-w", "code", "--after", &queued, "Hello"]);
    let ready = || fs::read_dir(code.join("input/ready")).unwrap().count();
    eventually("both wait", || (ready() == 2).then_some(()));
    let waiting = spawn(&["wait", "-w", "code", &queued]);
    fs::remove_dir_all(&code).unwrap();
    until_seen_to_be_gone(&home);
    home.run(["-w", "code", "--detach", "Hello"]).expect(0);
    for command in [running, held, waiting] {
        let ended = Finished::from(command.wait_with_output().unwrap());
        assert_ne!(ended.code, 0, "{ended:?}");
    }
    home.run(["wait", "--idle"]).expect(0);
    home.run(["daemon", "stop"]).expect(0);
}

#[test]
fn two_daemons_do_not_share_a_workspace() {
    let first = TestHome::new();
    first.start_daemon();
    let shared = first.workspace("");
    let second = TestHome::new().config(&format!("[workspaces.shared]\npath = {shared:?}\n"));
    second.run(["Hello"]).expect(0);
    let refused = second.run(["-w", "shared", "Hello"]).expect(64);
    assert!(refused.stderr.contains("the workspace 'shared' cannot be used"), "{refused:?}");
    first.run(["Hello"]).expect(0);
}

#[test]
fn a_workspace_that_is_not_configured_is_refused_with_those_that_are() {
    let home = TestHome::new().config(CODE);
    let refused = home.run(["-w", "cod", "Hello"]).expect(64);
    assert!(refused.stderr.contains("there are: default, code"), "{}", refused.stderr);
    let request = json!({"v": 1, "id": 1, "op": "submit", "prompt": "x", "workspace": "cod"});
    let frames = home.connect().ask(&request);
    assert_eq!(frames[0]["code"], "invalid_request");
    assert!(frames[0]["error"].as_str().unwrap().ends_with("there are: default, code"));
}

#[test]
fn what_was_queued_in_a_workspace_is_run_by_the_next_daemon() {
    let home =
        TestHome::new().config(&format!("grace = 0\n{CODE}")).dummy(&json!({"step_ms": 60_000}));
    let there = id(home.run(["-w", "code", "--detach", "Hello"]));
    let processing = home.root().join("workspaces/code/processing").join(&there);
    eventually("it runs", || processing.exists().then_some(()));
    home.run(["daemon", "stop"]).expect(0);
    assert!(home.root().join("workspaces/code/input/ready").join(&there).is_dir());
    let home = home.with("THREADRUNNER_DUMMY", "{}");
    home.run(["wait", &there]).expect(0);
    assert_eq!(home.run(["result", &there]).expect(0).stdout, "lorem ipsum\n");
}
