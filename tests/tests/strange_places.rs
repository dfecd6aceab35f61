//! A home, a runtime directory, an input or a terminal that is not as it should be.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use threadrunner_tests::{
    Finished, Terminal, TestHome, in_own_mounts, mount_small, remount_read_only,
};

const ANSWER: &str = "lorem ipsum dolor sit amet Hello.\n";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// A command for a user with the default home and this runtime directory.
fn with_runtime(home: &TestHome, runtime: &Path, arguments: &[&str]) -> Command {
    let mut command = home.threadrunner(arguments);
    command.env("HOME", home.root()).env_remove("THREADRUNNER_HOME");
    command.env("XDG_RUNTIME_DIR", runtime);
    command
}

#[test]
fn a_runtime_directory_that_holds_a_link_is_not_used_and_what_it_leads_to_not_changed() {
    let home = TestHome::new().config("");
    let beside = |name: &str| home.root().with_file_name(name);
    let (runtime, shared) = (beside("runtime"), beside("shared"));
    for dir in [&runtime, &shared] {
        fs::create_dir(dir).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    symlink(&shared, runtime.join("threadrunner")).unwrap();
    let run = |arguments: &[&str]| {
        Finished::from(with_runtime(&home, &runtime, arguments).output().unwrap())
    };
    assert_eq!(run(&["Hello"]).expect(0).stdout, ANSWER);
    assert_eq!((mode(&shared), fs::read_dir(&shared).unwrap().count()), (0o755, 0));
    assert!(home.root().join(".threadrunner/run/daemon.sock").exists());
    let checked = run(&["doctor"]).expect(0).stdout;
    assert!(checked.contains("XDG_RUNTIME_DIR is not used"), "{checked}");
    assert!(checked.contains("a link called threadrunner"), "{checked}");
    run(&["daemon", "stop", "--now"]).expect(0);
}

#[test]
fn a_runtime_directory_that_is_gone_is_not_made() {
    let home = TestHome::new().config("");
    let runtime = home.root().with_file_name("gone");
    let run = |arguments: &[&str]| {
        Finished::from(with_runtime(&home, &runtime, arguments).output().unwrap())
    };
    assert_eq!(run(&["Hello"]).expect(0).stdout, ANSWER);
    assert!(!runtime.exists());
    run(&["daemon", "stop", "--now"]).expect(0);
}

/// Puts something else in a file's place, made by a system program.
fn in_place_of(home: &TestHome, path: &str, kind: &str) {
    let path = home.root().join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder can be made");
    match kind {
        "pipe" => {
            let made = Command::new("mkfifo").arg(&path).status();
            assert!(made.is_ok_and(|status| status.success()));
        }
        _ => symlink("/dev/zero", &path).expect("a link can be made"),
    }
}

#[test]
fn what_is_in_the_place_of_a_file_is_named_and_neither_waited_for_nor_read_without_end() {
    for kind in ["pipe", "device"] {
        for (path, code) in [
            ("config.toml", 64),
            ("run/daemon.lock", 64),
            ("run/spawn.lock", 64),
            ("workspace/.lock", 2),
        ] {
            let home = TestHome::new();
            fs::create_dir(home.root()).unwrap();
            fs::set_permissions(home.root(), fs::Permissions::from_mode(0o700)).unwrap();
            in_place_of(&home, path, kind);
            let finished = home.run(["Hello"]).expect(code);
            assert!(finished.stderr.contains(path), "{kind} {path}: {}", finished.stderr);
        }
    }
    // Files that only help are done without.
    for path in ["cache/chat_history", "workspace/.redo", "run/config.toml", "run/workspaces"] {
        for kind in ["pipe", "device"] {
            let home = TestHome::new().config("");
            in_place_of(&home, path, kind);
            assert_eq!(home.run(["Hello"]).expect(0).stdout, ANSWER, "{kind} {path}");
            home.run(["-w", home.root().join("ws").to_str().unwrap(), "Hello"]).expect(0);
            home.run(["status"]).expect(0);
        }
    }
}

#[test]
fn what_a_link_in_the_place_of_a_file_leads_to_is_not_written() {
    let home = TestHome::new().config("");
    home.start_daemon();
    home.run(["daemon", "stop"]).expect(0);
    let thesis = home.root().with_file_name("thesis");
    fs::write(&thesis, "long").unwrap();
    for name in ["config.toml", "workspaces"] {
        let path = home.root().join("run").join(name);
        let _ = fs::remove_file(&path);
        symlink(&thesis, path).unwrap();
    }
    assert_eq!(home.run(["Hello"]).expect(0).stdout, ANSWER);
    home.run(["-w", home.root().join("ws").to_str().unwrap(), "Hello"]).expect(0);
    assert_eq!(fs::read_to_string(&thesis).unwrap(), "long");
}

#[test]
fn a_log_that_is_a_pipe_holds_up_nobody() {
    let home = TestHome::new().config("");
    home.start_daemon();
    home.run(["daemon", "stop"]).expect(0);
    let log = fs::read_dir(home.root().join("cache")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&log).unwrap();
    let name = format!("cache/{}", log.file_name().unwrap().to_str().unwrap());
    in_place_of(&home, &name, "pipe");
    assert_eq!(home.run(["Hello"]).expect(0).stdout, ANSWER);
    let finished = home.run(["daemon", "logs"]);
    assert!(finished.stderr.contains("a named pipe, not a file"), "{}", finished.stderr);
}

#[test]
fn a_home_that_cannot_be_written_is_not_as_it_should_be() {
    if !in_own_mounts("a_home_that_cannot_be_written_is_not_as_it_should_be") {
        return;
    }
    let home = TestHome::new();
    fs::create_dir(home.root()).unwrap();
    mount_small(home.root(), "size=8m,mode=0700");
    home.start_daemon();
    home.run(["daemon", "stop"]).expect(0);
    home.run(["doctor"]).expect(0);
    remount_read_only(home.root());
    let finished = home.run(["doctor"]);
    assert_ne!(finished.code, 0, "{}", finished.stdout);
    assert!(finished.stdout.contains("cannot be written: Read-only"), "{}", finished.stdout);
}

#[test]
fn silent_standard_input_is_told_of_and_does_not_outlast_the_time_limit() {
    let home = TestHome::new();
    home.start_daemon();
    for arguments in [&["--timeout", "2", "Hello"][..], &["wait", "--timeout", "2"]] {
        // Held open by this test, which writes nothing.
        let child = home.threadrunner(arguments).stdin(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let _held = child.stdin.take().unwrap();
        let finished = Finished::from(child.wait_with_output().unwrap()).expect(4);
        let mut lines = finished.stderr.lines();
        let told = lines.next().unwrap();
        assert!(told.contains("waiting for standard input"), "{told}");
        assert!(lines.next().unwrap().contains("2s"), "{}", finished.stderr);
    }
    assert!(home.jobs_in("output").is_empty() && home.jobs_in("failed").is_empty());
}

#[test]
fn a_detached_prompt_does_not_wait_for_silent_standard_input_for_ever() {
    let home = TestHome::new();
    let mut child = home.threadrunner(["--detach", "Hello"]).stdin(Stdio::piped()).spawn().unwrap();
    let _held = child.stdin.take().unwrap();
    let finished = Finished::from(child.wait_with_output().unwrap()).expect(4);
    assert!(finished.stderr.contains("< /dev/null"), "{}", finished.stderr);
}

/// What a terminal shows for a prompt that takes a while, in this environment.
fn shown(home: &TestHome, variables: &[(&str, &str)]) -> String {
    let mut command = home.threadrunner(["Hello"]);
    command.envs(variables.iter().copied());
    let mut terminal = Terminal::start(&command);
    let shown = terminal.see_all();
    assert_eq!(terminal.end(), Some(0), "{shown}");
    shown
}

#[test]
fn what_a_terminal_cannot_show_it_is_not_sent() {
    let home = TestHome::new().dummy(&json!({"step_ms": 200}));
    home.start_daemon();
    let utf8 = shown(&home, &[("LC_ALL", "C.UTF-8")]);
    assert!(utf8.contains('⠋') && utf8.contains('\x1b'), "{utf8:?}");
    let ascii = shown(&home, &[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]);
    assert!(ascii.is_ascii() && ascii.contains('\x1b'), "{ascii:?}");
    let plain = shown(&home, &[("LC_ALL", "C.UTF-8"), ("TERM", "")]);
    assert!(!plain.contains('\x1b') && plain.contains("amet Hello."), "{plain:?}");
}

#[test]
fn an_answer_to_a_closed_standard_output_is_no_success() {
    let home = TestHome::new();
    home.start_daemon();
    for (redirection, code) in [(">&-", 74), (">/dev/null", 0), ("1<>/dev/null", 0)] {
        let mut shell = home.command("threadrunner");
        let program = shell.get_program().to_owned();
        let script = format!("exec \"$0\" Hello {redirection}");
        let mut variables = Vec::new();
        for (name, value) in shell.get_envs() {
            variables.push((name.to_owned(), value.unwrap_or_default().to_owned()));
        }
        shell = Command::new("/bin/sh");
        shell.env_clear().envs(variables).args(["-c", &script]).arg(program).stdin(Stdio::null());
        let finished = Finished::from(shell.output().unwrap()).expect(code);
        assert_eq!(finished.stderr.is_empty(), code == 0, "{redirection}: {}", finished.stderr);
    }
}

#[test]
fn a_daemon_whose_socket_is_taken_away_is_reached_again() {
    let home = TestHome::new();
    let pid = home.daemon_pid();
    fs::remove_file(home.socket()).unwrap();
    assert_eq!(home.run(["Hello"]).expect(0).stdout, ANSWER);
    assert_eq!(home.daemon_pid(), pid);

    // As between a user's sessions, when the runtime directory is removed and made again.
    let home = TestHome::new().config("");
    let runtime = home.root().with_file_name("runtime");
    fs::create_dir(&runtime).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
    let run = |arguments: &[&str]| {
        Finished::from(with_runtime(&home, &runtime, arguments).output().unwrap()).expect(0)
    };
    let pid = |finished: &Finished| finished.json()["pid"].clone();
    let first = pid(&run(&["daemon", "start", "--json"]));
    assert!(runtime.join("threadrunner/daemon.sock").exists());
    fs::remove_dir_all(&runtime).unwrap();
    assert_eq!(run(&["Hello"]).stdout, ANSWER);
    assert!(!runtime.exists());
    fs::create_dir(&runtime).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(pid(&run(&["status", "--json"])), first);
    run(&["daemon", "stop", "--now"]);
}

#[test]
fn what_another_program_left_is_answered_with_or_told_and_is_no_bug() {
    let home = TestHome::new();
    home.start_daemon();
    let left = |place: &str, id: &str, file: &str, content: &str| {
        let job = home.workspace(place).join(id);
        fs::create_dir(&job).unwrap();
        fs::write(job.join("prompt.txt"), "hello").unwrap();
        fs::write(job.join(file), content).unwrap();
    };
    left("output", "1", "embedding.json", "{\"dim\":1,\"vector\":[1]}\n");
    left("output", "2", "audio.wav", "RIFF");
    left("failed", "3", "error.txt", "the model is on fire\n");
    for command in ["result", "follow"] {
        let finished = home.run([command, "1"]).expect(0);
        assert_eq!(finished.stdout, "{\"dim\":1,\"vector\":[1]}\n", "{command}");
        let finished = home.run([command, "2"]).expect(7);
        assert!(finished.stderr.contains("there is no text"), "{}", finished.stderr);
        let finished = home.run([command, "3"]).expect(6);
        assert!(finished.stderr.contains("the model is on fire"), "{}", finished.stderr);
    }
    home.run(["rm", "1", "2", "3"]).expect(0);
    assert!(home.jobs_in("input/writing").is_empty());
}

#[test]
fn what_cannot_be_removed_is_told() {
    let home = TestHome::new();
    let ids: Vec<String> = ["one", "two", "three"]
        .map(|prompt| home.run(["--detach", prompt]).expect(0).stdout.trim().to_owned())
        .into();
    home.run(["wait", "--all"]).expect(0);
    for id in &ids[1..] {
        // In the way of the rename, as a closed directory is for a user who is not root.
        fs::create_dir_all(home.workspace("input/writing").join(format!("{id}.gone/in"))).unwrap();
    }
    let pruned = home.run(["prune", "--older-than", "0s"]).expect(74);
    assert_eq!(pruned.stdout, format!("{}\n", ids[0]));
    assert!(pruned.stderr.contains("cannot remove 2 jobs; the first: "), "{}", pruned.stderr);
    assert_eq!(home.jobs_in("output"), ids[1..]);
    let pruned = home.run(["prune", "--older-than", "0s", "--json"]).expect(74);
    let failed = &pruned.json()["failed"];
    assert_eq!(
        (failed[1]["job"].as_str(), &failed[1]["error"]["code"]),
        (Some(&*ids[2]), &"io".into())
    );
    let refused = home.run(["rm", &ids[1]]).expect(74);
    assert!(refused.stdout.is_empty() && refused.stderr.contains(&ids[1]), "{}", refused.stderr);
}

#[test]
fn files_that_a_removed_job_leaves_are_told() {
    if !in_own_mounts("files_that_a_removed_job_leaves_are_told") {
        return;
    }
    let home = TestHome::new();
    let detach = || home.run(["--detach", "Hello"]).expect(0).stdout.trim().to_owned();
    let ids = [detach(), detach()];
    home.run(["wait", "--all"]).expect(0);
    for id in &ids {
        let busy = home.workspace("output").join(id).join("busy");
        fs::create_dir(&busy).unwrap();
        mount_small(&busy, "size=1m");
    }
    let removed = home.run(["rm", &ids[0]]).expect(74);
    assert!(removed.stdout.is_empty(), "{}", removed.stdout);
    assert!(removed.stderr.contains("is removed, but files of it are left"), "{}", removed.stderr);
    let pruned = home.run(["prune", "--older-than", "0s"]).expect(74);
    assert_eq!(pruned.stdout, format!("{}\n", ids[1]));
    assert!(pruned.stderr.contains("is removed, but files of it are left"), "{}", pruned.stderr);
    assert!(home.jobs_in("output").is_empty());
}
