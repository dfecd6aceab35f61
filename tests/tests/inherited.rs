//! The daemon keeps nothing that was meant only for the program that started it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::json;
use threadrunner_tests::{Finished, TestHome, eventually, process_is_alive};

/// Runs a line of shell in a home; `$1` is `threadrunner`.
fn shell(home: &TestHome, line: &str) -> Output {
    shell_command(home, line).output().expect("a shell can be started")
}

fn shell_command(home: &TestHome, line: &str) -> Command {
    let command = home.threadrunner([""; 0]);
    let mut shell = Command::new("sh");
    shell.args(["-c", line, "sh"]).arg(command.get_program()).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

/// The process id of the only engine.
fn engine_pid(home: &TestHome) -> u32 {
    let list = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
    let pid = list[0]["data"]["models"][0]["pid"].as_u64().expect("an engine has a pid");
    u32::try_from(pid).expect("a pid is short")
}

fn open_files(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there");
    entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

fn field(pid: u32, file: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process is there");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("Linux says so");
    line.trim().to_owned()
}

#[test]
fn what_a_caller_has_open_is_closed_in_the_daemon_and_its_engine() {
    let home = TestHome::new();
    let lock = home.root().with_file_name("lock");
    // This is how cron jobs keep from running twice. The output goes to a pipe, whose reader waits
    // for everything that has it open.
    let line = format!("exec 3>&1 9>'{}' 8<&9; exec \"$1\" Hello", lock.display());
    Finished::from(shell(&home, &line)).expect(0);
    assert!(lock.exists());
    for pid in [home.daemon_pid(), engine_pid(&home)] {
        let open = open_files(pid);
        assert!(!open.contains(&lock), "{open:?}");
    }
}

#[test]
fn signals_limits_and_places_of_a_caller_are_not_the_daemons() {
    let home = TestHome::new();
    let line = "echo 700 > /proc/self/oom_score_adj; mkdir -p \"$HOME/there\" && cd \"$HOME/there\" && umask 0 \
        && ulimit -S -n 100 && ulimit -S -f 100000 && ulimit -S -t 1000 && ulimit -S -s 500 \
        && exec env --ignore-signal=HUP,INT,QUIT,USR1,CHLD,TSTP,XFSZ --block-signal=TERM,ALRM \
        nice -n 5 \"$1\" Hello";
    Finished::from(shell(&home, line)).expect(0);
    let daemon = home.daemon_pid();
    for pid in [daemon, engine_pid(&home)] {
        assert_eq!(field(pid, "status", "SigBlk:"), "0000000000000000");
        let ignored = u64::from_str_radix(&field(pid, "status", "SigIgn:"), 16).unwrap();
        // Rust ignores SIGPIPE, the engine's fence SIGXFSZ; 32 and 33 belong to the C library.
        let own = 1 << 12 | 1 << 31 | 1 << 32 | if pid == daemon { 0 } else { 1 << 24 };
        assert_eq!(ignored & !own, 0, "{ignored:x}");
        assert_eq!(field(pid, "status", "Umask:"), "0077");
        assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
        for limit in ["Max cpu time", "Max file size"] {
            let line = field(pid, "limits", limit);
            let values: Vec<_> = line.split_whitespace().collect();
            assert_eq!(values[0], values[1], "{limit}");
        }
    }
    for limit in ["Max open files", "Max stack size"] {
        let line = field(daemon, "limits", limit);
        assert!(!["100", "512000"].contains(&line.split_whitespace().next().unwrap()), "{line}");
    }
    let oom = |pid: &str| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    if rustix::process::geteuid().is_root() {
        assert_eq!(oom(&daemon.to_string()), oom("1"));
    }
    // If only root may raise it again, the log says so.
    let pid = i32::try_from(daemon).ok().and_then(rustix::process::Pid::from_raw);
    let nice = rustix::process::getpriority_process(pid).unwrap();
    assert!(nice == 0 || home.log().contains(&format!("the nice level {nice}")), "{nice}");
}

#[test]
fn a_limit_that_cannot_be_lifted_is_told() {
    let home = TestHome::new();
    Finished::from(shell(&home, "ulimit -t 5000; exec \"$1\" daemon start")).expect(0);
    let log = home.log();
    assert!(log.contains("a limit of 5000 seconds of processor time"), "{log}");
}

#[test]
fn a_daemon_in_a_scripts_background_does_not_hear_the_terminals_interrupt() {
    let home = TestHome::new();
    let line = "trap '' INT; exec \"$1\" daemon run";
    let mut child = shell_command(&home, line).spawn().unwrap();
    eventually("it serves", || home.socket().exists().then_some(()));
    let pid = home.daemon_pid();
    assert_eq!(pid, child.id());
    let ignored = u64::from_str_radix(&field(pid, "status", "SigIgn:"), 16).unwrap();
    assert_ne!(ignored & 1 << 1, 0, "{ignored:x}");
    home.kill(pid, Signal::INT);
    home.kill(pid, Signal::TERM);
    child.wait().unwrap();
    assert!(!process_is_alive(pid));
}

#[test]
fn a_command_whose_interrupt_is_ignored_goes_on() {
    let home = TestHome::new().dummy(&json!({"step_ms": 20, "words": 50}));
    let line = "trap '' INT; exec \"$1\" Hello";
    let child = shell_command(&home, line).spawn().unwrap();
    eventually("it waits for its answer", || home.jobs_in("processing").pop());
    let ignored = u64::from_str_radix(&field(child.id(), "status", "SigIgn:"), 16).unwrap();
    assert_ne!(ignored & 1 << 1, 0, "{ignored:x}");
    home.kill(child.id(), Signal::INT);
    let finished = Finished::from(child.wait_with_output().unwrap()).expect(0);
    assert_eq!(finished.stdout.split_whitespace().count(), 50);
}
