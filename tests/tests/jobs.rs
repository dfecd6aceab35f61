//! Jobs on disk: where they are, what they leave behind, and what other programs put there.

use std::fs;

use serde_json::{Value, json};
use threadrunner_tests::{TestHome, eventually};

const ANSWER: &str = "lorem ipsum dolor sit amet Hello.";

#[test]
fn a_detached_job_gives_its_id_and_then_its_result() {
    let home = TestHome::new();
    let id = home.run(["--detach", "Hello"]).expect(0).stdout.trim().to_owned();
    home.run(["wait", &id]).expect(0);
    assert_eq!(home.run(["result", &id]).expect(0).stdout.trim_end(), ANSWER);
    assert_eq!(home.run(["result", "last"]).expect(0).stdout.trim_end(), ANSWER);
    let directory = home.workspace("output").join(&id);
    assert_eq!(fs::read_to_string(directory.join("prompt.txt")).unwrap(), "Hello");
    assert_eq!(fs::read_to_string(directory.join("result.txt")).unwrap(), ANSWER);
    let meta: Value =
        serde_json::from_str(&fs::read_to_string(directory.join("meta.json")).unwrap()).unwrap();
    assert_eq!((&meta["mode"], &meta["status"]), (&json!("text"), &json!("done")));
    assert!(meta["submitted_at"].as_str().unwrap() < meta["completed_at"].as_str().unwrap());
    let jobs = home.run(["jobs", "--json"]).expect(0);
    assert!(jobs.stdout.contains(&id), "{}", jobs.stdout);
}

#[test]
fn an_attached_prompt_is_a_job_too() {
    let home = TestHome::new();
    let answer = home.run(["--json", "Hello"]).expect(0).json();
    let id = answer["job"].as_str().unwrap();
    assert_eq!(home.jobs_in("output"), [id]);
    assert_eq!(home.run(["result", id]).expect(0).stdout.trim_end(), ANSWER);
}

#[test]
fn of_an_id_that_a_client_chose_there_is_one_job() {
    let home = TestHome::new().dummy(&json!({"step_ms": 1}));
    home.start_daemon();
    let mut client = home.connect();
    let ids = ["1736700000123456_1", "1736700000123457_1"];
    let submit = |op: &str, id: &str, prompt: &str| {
        let hook = "/bin/true";
        json!({"v": 1, "id": op, "op": op, "job": id, "prompt": prompt, "on_done": hook})
    };
    let code = |answer: Vec<Value>| answer.last().expect("an answer")["code"].clone();
    assert_eq!(client.ask(&submit("submit", ids[0], "Hello"))[0]["data"]["job"], ids[0]);
    // Running, and later done: the job and its hook stay as they are.
    for op in ["submit", "run"] {
        assert_eq!(code(client.ask(&submit(op, ids[0], "other"))), "job_exists");
    }
    home.run(["wait", ids[0]]).expect(0);
    for op in ["submit", "run"] {
        assert_eq!(code(client.ask(&submit(op, ids[0], "other"))), "job_exists");
    }
    assert_eq!(home.run(["result", ids[0]]).expect(0).stdout.trim_end(), ANSWER);
    let record = home.workspace("output").join(ids[0]).join("on_done.json");
    eventually("its program has run", || record.exists().then_some(()));
    // The id of a job that another program put there.
    let job = home.workspace("failed").join(ids[1]);
    fs::create_dir(&job).unwrap();
    fs::write(job.join("prompt.txt"), "Hello").unwrap();
    assert_eq!(code(client.ask(&submit("submit", ids[1], "other"))), "job_exists");
    assert_eq!(fs::read_to_string(job.join("prompt.txt")).unwrap(), "Hello");
    let bad = client.ask(&submit("submit", "../x", "Hello"));
    assert!(bad[0]["error"].as_str().unwrap().contains("not a job id"), "{bad:?}");
}

#[test]
fn any_program_may_put_a_job_into_ready() {
    let home = TestHome::new();
    home.start_daemon();
    let writing = home.workspace("input/writing/1736700000123456_1_0");
    fs::create_dir(&writing).unwrap();
    fs::write(writing.join("prompt.txt"), "Hello").unwrap();
    fs::rename(&writing, home.workspace("input/ready/1736700000123456_1_0")).unwrap();
    let result = home.workspace("output/1736700000123456_1_0/result.txt");
    let text = eventually("the job is done", || fs::read_to_string(&result).ok());
    assert_eq!(text, ANSWER);
}

#[test]
fn jobs_wait_on_disk_for_the_daemon() {
    let home = TestHome::new();
    home.start_daemon();
    home.run(["daemon", "stop"]).expect(0);
    for id in ["1736700000123456_1", "1736700000123457_1"] {
        let job = home.workspace("input/ready").join(id);
        fs::create_dir(&job).unwrap();
        fs::write(job.join("prompt.txt"), "Hello").unwrap();
    }
    home.start_daemon();
    eventually("both are done", || (home.jobs_in("output").len() == 2).then_some(()));
}

#[test]
fn a_malformed_job_fails_with_its_reason() {
    let home = TestHome::new();
    home.start_daemon();
    fs::create_dir(home.workspace("input/writing/5")).unwrap();
    fs::write(home.workspace("input/writing/5/note.txt"), "no prompt").unwrap();
    fs::rename(home.workspace("input/writing/5"), home.workspace("input/ready/5")).unwrap();
    let error = home.workspace("failed/5/error.txt");
    let error = eventually("the job fails", || fs::read_to_string(&error).ok());
    assert!(error.contains("prompt.txt"), "{error}");
    assert_eq!(home.run(["result", "5"]).code, 6);
}

#[test]
fn a_time_limit_that_no_clock_can_hold_is_none() {
    let home = TestHome::new();
    let pid = home.daemon_pid();
    for (id, limit, ends_in) in [("5", "1e300", "output"), ("6", "-1e300", "failed")] {
        let writing = home.workspace("input/writing").join(id);
        fs::create_dir(&writing).unwrap();
        fs::write(writing.join("prompt.txt"), "Hello").unwrap();
        fs::write(writing.join("job.json"), format!(r#"{{"v":1,"timeout_s":{limit}}}"#)).unwrap();
        fs::rename(&writing, home.workspace("input/ready").join(id)).unwrap();
        eventually("the job ends", || (home.jobs_in(ends_in) == [id]).then_some(()));
    }
    assert_eq!(home.daemon_pid(), pid);
}

#[test]
fn a_running_job_is_canceled_and_says_so() {
    let home = TestHome::new().dummy(&json!({"step_ms": 20, "words": 100_000}));
    let id = home.run(["--detach", "Hello"]).expect(0).stdout.trim().to_owned();
    eventually("it runs", || (home.jobs_in("processing") == [id.as_str()]).then_some(()));
    home.run(["cancel", &id]).expect(0);
    assert_eq!(home.jobs_in("failed"), [id.as_str()]);
    home.run(["result", &id]).expect(6);
    home.run(["wait", &id]).expect(6);
}

#[test]
fn what_is_not_there_is_exit_code_7() {
    let home = TestHome::new();
    for command in ["result", "wait", "follow", "cancel"] {
        let finished = home.run([command, "123456"]).expect(7);
        assert!(finished.stderr.contains("123456"), "{}", finished.stderr);
    }
}

#[test]
fn a_follower_of_a_job_that_a_killed_daemon_left_sees_its_answer_once() {
    let home = TestHome::new()
        .config("[engine]\nsequences = 1\n")
        .dummy(&json!({"step_ms": 10, "words": 60}));
    let id = home.run(["--detach", "Hello"]).expect(0).stdout.trim().to_owned();
    let partial = home.workspace("processing").join(&id).join("result.partial.txt");
    eventually("some of it is on disk", || {
        fs::read_to_string(&partial).ok().filter(|text| text.len() > 20)
    });
    home.kill(home.daemon_pid(), rustix::process::Signal::KILL);
    let followed = home.run(["follow", &id]).expect(0);
    assert_eq!(followed.stderr, "");
    assert_eq!(followed.stdout, home.run(["result", &id]).expect(0).stdout);
    assert_eq!(followed.stdout.split_whitespace().count(), 60);
}

#[test]
fn a_followed_job_streams_from_its_beginning() {
    let home = TestHome::new().dummy(&json!({"step_ms": 10, "words": 30}));
    let id = home.run(["--detach", "Hello"]).expect(0).stdout.trim().to_owned();
    let followed = home.run(["follow", &id]).expect(0).stdout;
    assert_eq!(followed.split_whitespace().count(), 30);
    assert_eq!(home.run(["result", &id]).expect(0).stdout, followed);
}

#[test]
fn to_look_starts_no_daemon() {
    let home = TestHome::new().dummy(&json!({"fail_after": 7}));
    assert_eq!(home.run(["jobs"]).expect(0).stderr, "no jobs\n");
    assert_eq!(home.run(["sessions"]).expect(0).stderr, "no sessions\n");
    assert!(!home.socket().exists(), "nothing was asked");
    home.run(["--session", "s", "--tag", "a", "Hello"]).expect(0);
    let ws = home.root().parent().unwrap().join("ws");
    let other = ["-w", ws.to_str().unwrap(), "--detach", "--session", "t", "Hello"];
    let other = home.run(other).expect(0).stdout;
    home.run(["wait", other.trim()]).expect(0);
    home.run(["a longer question than that"]).expect(3);
    let told = |home: &TestHome| {
        let told = |arguments: &[&str]| home.run(arguments).expect(0).stdout;
        [
            told(&["jobs", "--json"]),
            told(&["jobs", "--ids"]),
            told(&["jobs", "--json", "--tag", "a", "--state", "done", "--since", "1h"]),
            told(&["jobs", "--ids", "--state", "failed"]),
            told(&["jobs", "--json", "--limit", "1"]),
            told(&["sessions", "--json"]),
            told(&["sessions", "show", "--json", "s"]),
            told(&["sessions", "export", "s"]),
        ]
    };
    let with_a_daemon = told(&home);
    let done = home.run(["jobs", "--ids", "--state", "done"]).expect(0).stdout;
    let answered = |home: &TestHome| -> Vec<String> {
        let answer = |id| home.run(["result", "--json", id]).expect(0).stdout;
        done.lines().map(answer).collect()
    };
    let answer = answered(&home);
    home.run(["daemon", "stop"]).expect(0);
    assert_eq!(told(&home), with_a_daemon);
    assert_eq!(answered(&home), answer);
    assert!(home.run(["jobs", "--ids"]).expect(0).stdout.contains(other.trim()));
    assert!(!home.socket().exists(), "nothing was asked");
    // What the files do not tell, the daemon does.
    assert!(home.run(["result", "last"]).expect(6).stderr.contains("failed"));
    assert!(home.socket().exists());
}
