//! Something runs out, is taken away or is in the way: no job is lost, the client is told, and the
//! daemon lives on.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit};
use serde_json::{Value, json};
use threadrunner_tests::{
    Frames, TestHome, eventually, in_own_mounts, mount_small, remount_read_only,
};

const ANSWER: &str = "lorem ipsum dolor sit amet Hello.";

/// A home with an engine that takes one job at a time, two seconds for each: the first one is still
/// running when all are submitted, even on a busy machine.
fn slow_home() -> TestHome {
    TestHome::new().config("[engine]\nsequences = 1\n").dummy(&json!({"step_ms": 100, "words": 20}))
}

/// Submits jobs without starting a process for each. The model is loaded first, so that the daemon
/// knows how many jobs the engine takes at once.
fn detach(home: &TestHome, jobs: usize) -> Vec<String> {
    home.run(["load"]).expect(0);
    let mut client = home.connect();
    let submit = json!({"v": 1, "id": 1, "op": "submit", "prompt": "Hello"});
    let id = |answer: Vec<serde_json::Value>| {
        answer[0]["data"]["job"].as_str().expect("an id").to_owned()
    };
    (0..jobs).map(|_| id(client.ask(&submit))).collect()
}

/// Puts a home on a small file system of its own.
fn mount_home(home: &TestHome, options: &str) {
    let config = fs::read(home.root().join("config.toml")).expect("a home is configured");
    mount_small(home.root(), options);
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(home.root(), private).expect("a home can be made private");
    fs::write(home.root().join("config.toml"), config).expect("there is room for it");
}

/// The code in a failed job's `meta.json`.
fn code(home: &TestHome, id: &str) -> String {
    let path = home.workspace("failed").join(id).join("meta.json");
    let meta = fs::read_to_string(path).expect("a failed job says why");
    let meta: Value = serde_json::from_str(&meta).expect("meta.json is JSON");
    meta["error"]["code"].as_str().unwrap_or_default().to_owned()
}

/// Fills the disk of a home on a small file system while one job runs and two are queued.
fn runs_full(options: &str, fill: impl Fn(&Path)) {
    let home = slow_home();
    mount_home(&home, options);
    let pid = home.daemon_pid();
    let jobs = detach(&home, 3);
    eventually("one runs", || (home.jobs_in("processing") == jobs[..1]).then_some(()));
    fill(&home.root().join("models"));

    for arguments in [&["Hello"][..], &["--detach", "Hello"]] {
        let finished = home.run(arguments).expect(74);
        assert!(finished.stderr.contains("the disk is full: make room"), "{}", finished.stderr);
    }
    // The running job ends, or waits for room; no other is started and none is lost.
    let running = &jobs[0];
    eventually("the first has ended", || {
        let ps = Frames::connect(&home.socket()).ask(&json!({"v": 1, "id": 1, "op": "ps"}));
        (ps[0]["data"]["running"] == json!([])).then_some(())
    });
    assert_eq!(home.jobs_in("input/ready"), jobs[1..]);
    home.run(["jobs"]).expect(0);
    assert_eq!(home.daemon_pid(), pid);

    fs::remove_dir_all(home.root().join("models")).expect("room can be made");
    eventually("all have ended", || {
        let left = home.jobs_in("input/ready").len() + home.jobs_in("processing").len();
        (left == 0).then_some(())
    });
    for id in &jobs[1..] {
        assert!(home.jobs_in("output").contains(id), "{id} in {:?}", home.jobs_in("failed"));
    }
    if !home.jobs_in("output").contains(running) {
        assert_eq!(code(&home, running), "io");
    }
    home.run(["Hello"]).expect(0);
    assert_eq!(home.daemon_pid(), pid);
}

#[test]
fn a_full_disk_loses_no_job_and_all_goes_on_when_there_is_room() {
    if in_own_mounts("a_full_disk_loses_no_job_and_all_goes_on_when_there_is_room") {
        runs_full("size=2m", |directory| {
            let mut filler = fs::File::create(directory.join("filler")).unwrap();
            while filler.write_all(&[0; 4096]).is_ok() {}
        });
    }
}

#[test]
fn a_disk_without_inodes_loses_no_job_and_all_goes_on_when_there_are_some() {
    if in_own_mounts("a_disk_without_inodes_loses_no_job_and_all_goes_on_when_there_are_some") {
        runs_full("size=8m,nr_inodes=120", |directory| {
            for number in 0.. {
                if fs::File::create(directory.join(format!("filler{number}"))).is_err() {
                    break;
                }
            }
        });
    }
}

#[test]
fn a_daemon_starts_on_a_full_disk_so_that_room_can_be_made() {
    if !in_own_mounts("a_daemon_starts_on_a_full_disk_so_that_room_can_be_made") {
        return;
    }
    let home = TestHome::new().config("");
    mount_home(&home, "size=1m");
    let id = home.run(["--detach", "Hello"]).expect(0).stdout.trim().to_owned();
    home.run(["wait", &id]).expect(0);
    home.run(["daemon", "stop"]).expect(0);
    let mut filler = fs::File::create(home.root().join("models/filler")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
    drop(filler);
    home.run(["rm", &id]).expect(0);
    fs::remove_file(home.root().join("models/filler")).unwrap();
    assert_eq!(home.run(["Hello"]).expect(0).stdout.trim_end(), ANSWER);
}

#[test]
fn a_read_only_disk_is_said_to_be_one() {
    if !in_own_mounts("a_read_only_disk_is_said_to_be_one") {
        return;
    }
    let home = TestHome::new().config("");
    mount_home(&home, "size=4m");
    home.run(["Hello"]).expect(0);
    home.run(["daemon", "stop"]).expect(0);
    remount_read_only(home.root());
    let finished = home.run(["Hello"]).expect(74);
    assert!(finished.stderr.contains("Read-only file system"), "{}", finished.stderr);
}

#[test]
fn a_daemon_out_of_file_descriptors_says_so_and_goes_on_when_it_has_some() {
    let home = slow_home();
    let pid = home.daemon_pid();
    let jobs = detach(&home, 3);
    eventually("one runs", || (home.jobs_in("processing") == jobs[..1]).then_some(()));
    let limit = |most: Option<u64>| {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
        let old = rustix::process::prlimit(
            pid,
            Resource::Nofile,
            Rlimit { current: most, maximum: rustix::process::getrlimit(Resource::Nofile).maximum },
        );
        old.unwrap().current
    };
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let usual = limit(Some(open as u64));
    // Connections held open take the last descriptors.
    let mut held = Vec::new();
    let refusal = loop {
        let mut connection = Frames::connect(&home.socket());
        let answer = connection.ask(&json!({"v": 1, "id": 1, "op": "status"})).pop().unwrap();
        if answer["code"].is_string() {
            break answer;
        }
        held.push(connection);
    };
    assert_eq!((&refusal["code"], &refusal["retryable"]), (&json!("overloaded"), &json!(true)));
    let refused = || {
        let finished = home.run(["Hello"]).expect(5);
        assert!(finished.stderr.contains("ulimit -n"), "{}", finished.stderr);
    };
    for _ in 0..3 {
        refused();
    }
    // Enough for a connection, but not for the job's files: the same answer.
    let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let all = descriptors();
    held.pop();
    eventually("one is free", || (descriptors() < all).then_some(()));
    refused();
    drop(held);
    limit(usual);
    for id in &jobs {
        home.run(["wait", id]).expect(0);
    }
    home.run(["Hello"]).expect(0);
    assert_eq!(home.daemon_pid(), pid);
}

#[test]
fn two_daemons_do_not_share_a_workspace() {
    let home = TestHome::new();
    home.start_daemon();
    let other = TestHome::new().with("THREADRUNNER_WORKSPACE", home.workspace(""));
    let finished = other.run(["Hello"]).expect(64);
    assert!(finished.stderr.contains("belongs to another daemon"), "{}", finished.stderr);
    home.run(["Hello"]).expect(0);
}

#[test]
fn a_job_deleted_by_hand_takes_no_other_with_it() {
    let home = slow_home();
    let pid = home.daemon_pid();
    let jobs = detach(&home, 5);
    let waiting = home.threadrunner(["wait", &jobs[1]]).spawn().unwrap();
    eventually("the first runs", || (home.jobs_in("processing") == jobs[..1]).then_some(()));
    // Delete a job that a client waits for, and others.
    fs::remove_dir_all(home.workspace("input/ready").join(&jobs[1])).unwrap();
    fs::remove_dir_all(home.workspace("input/ready").join(&jobs[2])).unwrap();
    fs::remove_dir_all(home.workspace("processing").join(&jobs[0])).unwrap();
    for id in &jobs[3..] {
        home.run(["wait", id]).expect(0);
    }
    let waited = threadrunner_tests::Finished::from(waiting.wait_with_output().unwrap());
    waited.expect(7);
    for id in &jobs[..3] {
        home.run(["result", id]).expect(7);
        home.run(["cancel", id]).expect(7);
    }
    fs::remove_dir_all(home.workspace("output").join(&jobs[3])).unwrap();
    home.run(["result", &jobs[3]]).expect(7);
    assert!(!home.run(["jobs"]).expect(0).stdout.contains(&jobs[3]));
    assert_eq!(home.jobs_in("output"), jobs[4..]);
    home.run(["Hello"]).expect(0);
    assert_eq!(home.daemon_pid(), pid);
}

#[test]
fn ids_go_on_after_those_of_a_day_to_come() {
    let home = TestHome::new();
    home.start_daemon();
    home.run(["daemon", "stop"]).expect(0);
    // The clock was a day ahead when the last job ended.
    let ahead = SystemTime::now() + Duration::from_secs(86_400);
    fs::File::open(home.workspace("output")).unwrap().set_modified(ahead).unwrap();
    let micros = ahead.duration_since(UNIX_EPOCH).unwrap().as_micros();
    let ids = detach(&home, 3);
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    assert!(ids[0] > format!("{micros:016}"), "{ids:?}");
}

#[test]
fn an_id_of_sixteen_nines_does_not_spoil_those_that_follow() {
    let home = TestHome::new();
    let before = detach(&home, 1).remove(0);
    let nines = "9999999999999999";
    let job = home.workspace("input/writing").join(nines);
    fs::create_dir(&job).unwrap();
    fs::write(job.join("prompt.txt"), "Hello").unwrap();
    fs::rename(job, home.workspace("input/ready").join(nines)).unwrap();
    home.run(["wait", nines]).expect(0);
    let after = detach(&home, 1).remove(0);
    assert!(before < after && after.as_str() < nines, "{before} {after}");
    home.run(["wait", &after]).expect(0);
    let last = || home.run(["result", "last", "--json"]).expect(0).json()["job"].clone();
    assert_eq!(last(), after);
    // What arrives is the last, whatever its id.
    for early in ["7", "99999999999999999"] {
        let job = home.workspace("input/writing").join(early);
        fs::create_dir(&job).unwrap();
        fs::write(job.join("prompt.txt"), "Hello").unwrap();
        fs::rename(job, home.workspace("input/ready").join(early)).unwrap();
        home.run(["wait", early]).expect(0);
        assert_eq!(last(), early);
    }
    home.run(["rm", "last"]).expect(0);
    let newest = detach(&home, 1).remove(0);
    home.run(["wait", &newest]).expect(0);
    assert_eq!(last(), newest);
    // The next daemon has not seen what arrived when: what is a time counts.
    home.run(["daemon", "stop"]).expect(0);
    assert_eq!(last(), newest);
    home.start_daemon();
    assert_eq!(last(), newest);
}
