//! Starting, replacing and ending a daemon: real processes, but the daemon is this test binary.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod number;

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::{env, thread};

use serde_json::{Value, json};
use tempfile::TempDir;
use threadrunner_client::Daemon;
use threadrunner_core::protocol::{Op, Submission};
use threadrunner_core::{ErrorCode, MAX_FRAME_BYTES};
use threadrunner_home::{FileLock, Home};

use self::number::Number;

/// A home, and a program in it that plays the daemon.
struct Fixture {
    dir: TempDir,
    home: Home,
}

impl Fixture {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let home = home_at(&dir.path().join("home"));
        home.create().unwrap();
        Self { dir, home }
    }

    /// A daemon whose program is this shell script.
    fn daemon(&self, script: &str) -> Daemon {
        Daemon::new(self.home.clone()).with_program(self.program(script))
    }

    fn program(&self, script: &str) -> PathBuf {
        let path = self.dir.path().join("daemon.sh");
        // Written by another process: a file that is open for writing cannot be executed, and if
        // this process wrote it, children forked by other tests would briefly have it open too.
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 700 \"$2\"";
        let status =
            Command::new("/bin/sh").args(["-c", write, "sh", script]).arg(&path).status().unwrap();
        assert!(status.success());
        path
    }

    /// The script of a daemon that works, and speaks `version`.
    fn working(&self, version: u32) -> String {
        format!(
            "exec 3>&1 >/dev/null\nFAKE_HOME='{}' FAKE_VERSION={version} exec '{}' \
             --exact daemon_process --ignored",
            self.home.root.display(),
            env::current_exe().unwrap().display()
        )
    }

    /// How many daemons took the lock.
    fn started(&self) -> usize {
        fs::read_to_string(self.home.run_dir.join("started")).unwrap_or_default().lines().count()
    }
}

fn home_at(root: &Path) -> Home {
    Home::resolve(Path::new("/"), |name| {
        (name == "THREADRUNNER_HOME").then(|| root.as_os_str().to_owned())
    })
    .unwrap()
}

/// Not a test: the daemon that [`Fixture::working`] starts. Run as a test, it does nothing.
#[test]
#[ignore = "is started by the other tests"]
fn daemon_process() {
    let Some(root) = env::var_os("FAKE_HOME") else { return };
    let version: u64 = env::var("FAKE_VERSION").unwrap().parse().unwrap();
    let home = home_at(Path::new(&root));
    let mut greeting = OpenOptions::new().write(true).open("/proc/self/fd/3").unwrap();
    let Some(lock) = FileLock::try_now(&home.daemon_lock()).unwrap() else {
        writeln!(greeting, "{{\"ready\":true}}").unwrap();
        return;
    };
    let mut started =
        OpenOptions::new().append(true).create(true).open(home.run_dir.join("started")).unwrap();
    writeln!(started, "{}", process::id()).unwrap();
    let _ = fs::remove_file(&home.socket);
    let listener = UnixListener::bind(&home.socket).unwrap();
    lock.write_note(home.socket.as_os_str().as_bytes()).unwrap();
    writeln!(greeting, "{{\"ready\":true}}").unwrap();
    let is_deaf = env::var_os("FAKE_DEAF").is_some();
    for stream in listener.incoming() {
        match is_deaf {
            true => std::mem::forget(stream),
            false => drop(thread::spawn(move || serve(stream.unwrap(), version))),
        }
    }
}

fn serve(mut stream: UnixStream, version: u64) {
    while let Some(request) = read_frame(&mut stream) {
        let id = request["id"].clone();
        let answer = match request["op"].as_str() {
            Some("stop") => process::exit(0),
            Some("submit") => return,
            _ if request["v"] != version => json!({
                "id": id, "error": "another version", "error_type": "Protocol",
                "code": "unsupported_version", "retryable": false,
            }),
            Some("status") => json!({"id": id, "data": {
                "version": "0", "protocols": [version], "pid": process::id(), "uptime_s": 0.0,
                "home": "/", "socket": "/", "workspace": "/", "log": "/", "memory_bytes": 0,
                "queued": 0, "running": 0, "models": [],
            }}),
            _ => json!({"id": id, "data": process::id()}),
        };
        let answer = answer.to_string();
        stream.write_all(&(answer.len() as u32).to_le_bytes()).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
    }
}

fn read_frame(stream: &mut UnixStream) -> Option<Value> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let length = u32::from_le_bytes(length) as usize;
    assert!(length <= MAX_FRAME_BYTES);
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).ok()?;
    serde_json::from_slice(&frame).ok()
}

#[tokio::test]
async fn ten_clients_at_once_make_one_daemon() {
    let f = Fixture::new();
    let program = f.program(&f.working(1));
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let daemon = Daemon::new(f.home.clone()).with_program(program.clone());
            tokio::spawn(async move { daemon.call(Number).await.unwrap() })
        })
        .collect();
    let mut pids = Vec::new();
    for client in clients {
        pids.push(client.await.unwrap());
    }
    pids.dedup();
    assert_eq!(pids.len(), 1, "{pids:?}");
    assert_eq!(f.started(), 1);
    assert!(f.daemon("").stop(false).await.unwrap());
}

#[tokio::test]
async fn a_daemon_is_ended_and_gone_when_stop_returns() {
    let f = Fixture::new();
    let daemon = f.daemon(&f.working(1));
    assert!(!daemon.stop(false).await.unwrap());
    daemon.connect_or_start().await.unwrap();
    assert!(daemon.stop(false).await.unwrap());
    assert!(FileLock::try_now(&f.home.daemon_lock()).unwrap().is_some());
    assert!(!daemon.stop(false).await.unwrap());
}

#[tokio::test]
async fn a_daemon_that_obeys_nobody_is_ended_by_the_system() {
    let f = Fixture::new();
    let phases = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = phases.clone();
    let script = format!("trap '' TERM; export FAKE_DEAF=1; {}", f.working(1));
    let daemon = f.daemon(&script).on_phase(move |phase| seen.lock().unwrap().push(phase));
    daemon.connect_or_start().await.unwrap();
    let pid = FileLock::holder(&f.home.daemon_lock()).unwrap();
    let failure = daemon.stop(false).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::Timeout);
    assert!(failure.message.contains(&pid.to_string()), "{failure}");
    phases.lock().unwrap().clear();
    assert!(daemon.stop(true).await.unwrap());
    let told = |killed| threadrunner_client::Phase::Signaled { pid, killed };
    assert_eq!(*phases.lock().unwrap(), [told(false), told(true)]);
    assert!(FileLock::try_now(&f.home.daemon_lock()).unwrap().is_some());
    assert!(!daemon.stop(true).await.unwrap());
}

#[tokio::test]
async fn a_daemon_of_another_version_is_replaced() {
    let f = Fixture::new();
    let old = f.daemon(&f.working(99));
    let client = old.connect_or_start().await.unwrap();
    assert_eq!(client.call(Number).await.unwrap_err().code, ErrorCode::UnsupportedVersion);
    drop(client);
    let new = f.daemon(&f.working(1));
    new.call(Number).await.unwrap();
    assert_eq!(f.started(), 2);
    new.stop(false).await.unwrap();
}

#[tokio::test]
async fn two_of_another_version_in_a_row_are_an_error_and_no_loop() {
    let f = Fixture::new();
    let daemon = f.daemon(&f.working(99));
    let failure = daemon.call(Number).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::UnsupportedVersion);
    daemon.stop(false).await.unwrap();
}

#[tokio::test]
async fn who_asks_a_daemon_that_runs_starts_none() {
    let f = Fixture::new();
    let daemon = f.daemon(&f.working(1));
    assert!(daemon.open_running(Op::Ps).await.unwrap().is_none());
    daemon.connect_or_start().await.unwrap();
    assert!(daemon.open_running(Op::Ps).await.unwrap().is_some());
    // It closes the connection before it has answered.
    let submit = Op::Submit(Box::new(Submission { prompt: "x".into(), ..Default::default() }));
    assert!(daemon.open_running(submit).await.unwrap().is_none());
    daemon.stop(false).await.unwrap();
    assert_eq!(f.started(), 1);
}

#[tokio::test]
async fn what_is_submitted_to_a_daemon_that_vanishes_is_not_submitted_again() {
    let f = Fixture::new();
    let daemon = f.daemon(&f.working(1));
    let submit = Op::Submit(Box::new(Submission { prompt: "x".into(), ..Default::default() }));
    let failure = daemon.open(submit).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::ConnectionLost);
    daemon.stop(false).await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_another_environment_started_is_found_by_its_note() {
    let f = Fixture::new();
    f.daemon(&f.working(1)).connect_or_start().await.unwrap();
    let mut elsewhere = f.home.clone();
    elsewhere.socket = f.dir.path().join("other.sock");
    let daemon = Daemon::new(elsewhere).with_program("/nowhere".into());
    daemon.call(Number).await.unwrap();
    daemon.stop(false).await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_is_starting_already_is_waited_for() {
    let f = Fixture::new();
    // Another process's daemon: it holds its lock, and listens when this thread lets it.
    let lock = FileLock::try_now(&f.home.daemon_lock()).unwrap().unwrap();
    let (waiting, is_waiting) = std::sync::mpsc::channel();
    let daemon =
        Daemon::new(f.home.clone()).with_program("/nowhere".into()).on_phase(move |phase| {
            if phase == threadrunner_client::Phase::Replacing {
                let _ = waiting.send(());
            }
        });
    let socket = f.home.socket.clone();
    thread::spawn(move || {
        is_waiting.recv().unwrap();
        let listener = UnixListener::bind(socket).unwrap();
        for stream in listener.incoming() {
            serve(stream.unwrap(), 1);
        }
    });
    daemon.call(Number).await.unwrap();
    drop(lock);
}

#[tokio::test]
async fn a_daemon_that_is_ending_is_waited_for_and_then_there_is_a_new_one() {
    let f = Fixture::new();
    let lock = FileLock::try_now(&f.home.daemon_lock()).unwrap().unwrap();
    let lock = std::sync::Mutex::new(Some(lock));
    let daemon = f.daemon(&f.working(1)).on_phase(move |phase| {
        if phase == threadrunner_client::Phase::Replacing {
            lock.lock().unwrap().take();
        }
    });
    daemon.call(Number).await.unwrap();
    assert_eq!(f.started(), 1);
    daemon.stop(false).await.unwrap();
}

#[tokio::test]
async fn the_daemons_own_reason_for_not_starting_reaches_the_client() {
    let f = Fixture::new();
    let greeting =
        r#"echo '{"code":"config","message":"config.toml, line 3: no","hint":"mend it"}'"#;
    // It lives until the fifo is opened for writing, which the test does only once it has the
    // reason. A client that waited for the process would wait forever.
    let fifo = f.dir.path().join("fifo");
    let script = format!("mkfifo '{0}'; {greeting}; read line < '{0}'", fifo.display());
    let failure = f.daemon(&script).connect_or_start().await.unwrap_err();
    drop(OpenOptions::new().write(true).open(&fifo).unwrap());
    assert_eq!(failure.code, ErrorCode::Config);
    assert_eq!(failure.message, "config.toml, line 3: no");
    assert_eq!(failure.hint.as_deref(), Some("mend it"));
}

#[tokio::test]
async fn a_reason_of_the_disk_is_a_daemon_that_cannot_start() {
    let f = Fixture::new();
    let failure = f
        .daemon(r#"echo '{"code":"io","message":"the disk is full"}'"#)
        .connect_or_start()
        .await
        .unwrap_err();
    assert_eq!(failure.code, ErrorCode::DaemonUnavailable);
    assert!(failure.message.contains("the disk is full"), "{failure}");
}

#[tokio::test]
async fn a_daemon_that_dies_without_a_word_is_reported_with_the_end_of_its_log() {
    let f = Fixture::new();
    let log = f.home.log_file("2026-01-02");
    let script = format!("printf 'one\\nlast words\\n' > '{}'; kill -ABRT $$", log.display());
    let failure = f.daemon(&script).connect_or_start().await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::DaemonUnavailable);
    assert!(failure.message.contains("signal 6"), "{failure}");
    assert!(failure.hint.unwrap().contains("last words"));
}

#[tokio::test]
async fn a_program_that_is_no_daemon_is_named() {
    let f = Fixture::new();
    let failure = f.daemon("echo hello").connect_or_start().await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::DaemonUnavailable);
    assert!(failure.message.contains("hello"), "{failure}");
}

#[tokio::test]
async fn a_daemon_that_cannot_be_executed_is_named() {
    let f = Fixture::new();
    let daemon = Daemon::new(f.home.clone()).with_program("/nowhere/daemon".into());
    let failure = daemon.connect_or_start().await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::DaemonUnavailable);
    assert!(failure.message.contains("/nowhere/daemon"), "{failure}");
}

#[tokio::test]
async fn a_daemon_that_says_ready_and_is_not_there_is_an_error_and_no_loop() {
    let f = Fixture::new();
    let failure = f.daemon(r#"echo '{"ready":true}'"#).connect_or_start().await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::DaemonUnavailable);
    assert!(failure.message.contains("nothing listens"), "{failure}");
}

#[tokio::test]
async fn a_home_that_cannot_be_made_is_a_daemon_that_cannot_start() {
    let home = home_at(Path::new("/dev/null/home"));
    let failure = Daemon::new(home).connect_or_start().await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::DaemonUnavailable);
    assert!(failure.message.contains("/dev/null/home"), "{failure}");
}
