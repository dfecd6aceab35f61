//! Waiting for jobs, listing them, and passing their ids on.

use std::fs;
use std::io::{BufRead, BufReader};

use rustix::process::Signal;
use serde_json::{Value, json};
use threadrunner_tests::{Finished, TestHome, eventually};

fn detach(home: &TestHome, arguments: &[&str]) -> String {
    let all = ["--detach"].into_iter().chain(arguments.iter().copied());
    home.run(all).expect(0).stdout.trim().to_owned()
}

fn sorted(text: &str) -> Vec<&str> {
    let mut ids: Vec<_> = text.lines().collect();
    ids.sort_unstable();
    ids
}

/// A home whose jobs take long unless they are canceled.
fn slow() -> TestHome {
    TestHome::new().dummy(&json!({"step_ms": 20, "words": 100_000}))
}

#[test]
fn ids_that_end_are_printed_and_a_failure_is_exit_code_6() {
    let home = TestHome::new();
    let ids: Vec<_> = (0..20).map(|n| detach(&home, &[&format!("job {n}")])).collect();
    let finished = home.run_with_input(["wait", "-"], ids.join("\n").as_bytes()).expect(0);
    assert_eq!(sorted(&finished.stdout), ids);
    // Jobs that have ended are printed too; a repeated id is printed once.
    let again = home.run(["wait", &ids[3], &ids[3], "last"]).expect(0);
    assert_eq!(sorted(&again.stdout), [ids[3].as_str(), ids[19].as_str()]);

    let home = slow();
    let id = detach(&home, &["x"]);
    let waiting = home.threadrunner(["wait", &id]).spawn().unwrap();
    eventually("it runs", || (home.jobs_in("processing") == [id.as_str()]).then_some(()));
    home.run(["cancel", &id]).expect(0);
    let finished = Finished::from(waiting.wait_with_output().unwrap()).expect(6);
    assert_eq!(finished.stdout.trim(), id);
    assert!(finished.stderr.contains("canceled"), "{}", finished.stderr);
}

#[test]
fn waiting_for_all_is_for_those_unfinished_now_and_for_a_tag_also_for_those_that_ended() {
    let home = TestHome::new();
    let early = detach(&home, &["--tag", "a", "early"]);
    home.run(["wait", &early]).expect(0);
    assert_eq!(home.run(["wait", "--all"]).expect(0).stdout, "");
    assert_eq!(home.run(["wait", "--tag", "a"]).expect(0).stdout.trim(), early);
    home.run(["wait", "--any", "--tag", "a"]).expect(7);
    let other = detach(&home, &["--tag", "b", "other"]);
    let late = detach(&home, &["--tag", "a", "late"]);
    let tagged = home.run(["wait", "--tag", "a"]).expect(0);
    assert_eq!(sorted(&tagged.stdout), [early.as_str(), late.as_str()]);
    home.run(["wait", &other]).expect(0);

    let home = slow();
    let failed = detach(&home, &["--tag", "a", "x"]);
    home.run(["cancel", &failed]).expect(0);
    let finished = home.run(["wait", "--tag", "a"]).expect(6);
    assert_eq!(finished.stdout.trim(), failed);
}

#[test]
fn the_first_to_end_is_enough_for_any() {
    let home = slow();
    // The first ends by itself, long after `wait --any` has listed the jobs.
    let ids = [detach(&home, &["--timeout", "3s", "x"]), detach(&home, &["y"])];
    let waiting = home.threadrunner(["wait", "--any", "--all"]).spawn().unwrap();
    let given = home.threadrunner(["wait", "--any", &ids[0], &ids[1]]).spawn().unwrap();
    home.run(["cancel", &ids[1]]).expect(0);
    let finished = Finished::from(given.wait_with_output().unwrap()).expect(6);
    assert_eq!(finished.stdout.trim(), ids[1]);
    let finished = Finished::from(waiting.wait_with_output().unwrap()).expect(6);
    assert!(ids.contains(&finished.stdout.trim().to_owned()), "{}", finished.stdout);
}

#[test]
fn time_that_is_over_is_exit_code_4_and_the_job_goes_on() {
    let home = slow();
    let id = detach(&home, &["x"]);
    for arguments in [&["wait", &id][..], &["wait", "--all"], &["wait", "--idle"]] {
        let limited = arguments.iter().copied().chain(["--timeout", "50ms"]);
        home.run(limited).expect(4);
    }
    assert_eq!(home.jobs_in("failed"), [] as [&str; 0]);
    home.run(["cancel", &id]).expect(0);
    home.run(["wait", "--idle"]).expect(0);
}

#[test]
fn idle_is_when_nothing_is_queued_or_running_also_of_what_others_put_there() {
    let home = TestHome::new();
    home.start_daemon();
    home.run(["wait", "--idle"]).expect(0);
    home.run(["daemon", "stop"]).expect(0);
    for id in ["1736700000123456_1", "1736700000123457_1"] {
        let job = home.workspace("input/ready").join(id);
        fs::create_dir(&job).unwrap();
        fs::write(job.join("prompt.txt"), "Hello").unwrap();
    }
    home.run(["wait", "--idle"]).expect(0);
    assert_eq!(home.jobs_in("output").len(), 2);
    // An empty directory is not a job to wait for.
    fs::create_dir(home.workspace("input/ready/5")).unwrap();
    home.run(["wait", "--idle"]).expect(0);
}

#[test]
fn who_waits_outlives_the_daemon() {
    let home = TestHome::new().dummy(&json!({"step_ms": 10, "words": 100}));
    let ids = [detach(&home, &["x"]), detach(&home, &["y"])];
    let waiting = home.threadrunner(["wait", &ids[0], &ids[1]]).spawn().unwrap();
    let all = home.threadrunner(["wait", "--idle"]).spawn().unwrap();
    eventually("they run", || (home.jobs_in("processing").len() == 2).then_some(()));
    home.kill(home.daemon_pid(), Signal::KILL);
    let finished = Finished::from(waiting.wait_with_output().unwrap()).expect(0);
    assert_eq!(sorted(&finished.stdout), ids);
    Finished::from(all.wait_with_output().unwrap()).expect(0);
    assert_eq!(home.jobs_in("output").len(), 2);
}

#[test]
fn ids_pass_from_one_command_to_the_next() {
    let home = slow();
    let ids = [detach(&home, &["--tag", "a", "x"]), detach(&home, &["--tag", "b", "y"])];
    let listed = home.run(["jobs", "--ids"]).expect(0).stdout;
    assert_eq!(sorted(&listed), ids);
    let with_input = |command: &[&str], input: &str| {
        home.run_with_input(command.iter().copied(), input.as_bytes())
    };
    assert_eq!(with_input(&["cancel", "-"], &listed).expect(0).stdout, listed);
    let canceled = home.run(["jobs", "--state", "canceled", "--ids"]).expect(0).stdout;
    assert_eq!(sorted(&canceled), ids);
    assert_eq!(home.run(["jobs", "--state", "failed", "--ids"]).expect(0).stdout, "");
    let told = home.run(["jobs", "--json", "--state", "canceled"]).expect(0).json();
    assert_eq!(told["jobs"][0]["state"], "canceled");
    let only = home.run(["jobs", "--ids", "--tag", "a"]).expect(0).stdout;
    assert_eq!(only.trim(), ids[0]);
    assert_eq!(sorted(&with_input(&["retry", "-"], &canceled).expect(0).stdout), ids);
    assert_eq!(with_input(&["cancel"], &listed).expect(0).stdout, listed);
    // An unknown id does not affect the others.
    let given = format!("123456\n{listed}");
    let removed = with_input(&["rm", "-"], &given).expect(7);
    assert_eq!(removed.stdout, listed);
    assert!(removed.stderr.contains("123456"), "{}", removed.stderr);
    assert_eq!(home.run(["jobs", "--ids"]).expect(0).stdout, "");
}

#[test]
fn nothing_on_standard_input_is_nothing_to_do_where_it_was_asked_for() {
    let home = TestHome::new();
    for command in ["result", "wait", "follow", "cancel", "retry", "rm"] {
        let done = home.run_with_input([command, "-"], b"\n").expect(0);
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", ""), "{command}");
        // Without the dash, something is probably missing.
        home.run_with_input([command], b"").expect(64);
    }
}

#[test]
fn a_job_that_is_named_twice_is_one_job() {
    let home = TestHome::new();
    for prompt in ["one", "two", "three"] {
        home.run(["--tag", "a", prompt]).expect(0);
    }
    let ids = home.run(["jobs", "--ids"]).expect(0).stdout;
    let ids: Vec<_> = ids.lines().collect();
    let removed = home.run(["rm", "last", "last", ids[0]]).expect(0);
    assert_eq!(removed.stdout.trim(), ids[0]);
    let left = home.run(["jobs", "--ids"]).expect(0).stdout;
    assert_eq!(left.lines().collect::<Vec<_>>(), ids[1..]);
    home.run(["rm", ids[2], ids[2], "123456"]).expect(7);
    assert_eq!(home.run(["jobs", "--ids"]).expect(0).stdout.trim(), ids[1]);
}

#[test]
fn answers_of_many_jobs_are_printed_in_the_order_given() {
    let home = TestHome::new();
    let ids = format!("{}\n{}\n", detach(&home, &["one"]), detach(&home, &["two"]));
    home.run_with_input(["wait", "-"], ids.as_bytes()).expect(0);
    let answers = "lorem ipsum dolor sit amet one.\nlorem ipsum dolor sit amet two.\n";
    assert_eq!(home.run_with_input(["result", "-"], ids.as_bytes()).expect(0).stdout, answers);
    assert_eq!(home.run_with_input(["follow", "-"], ids.as_bytes()).expect(0).stdout, answers);
}

#[test]
fn jobs_are_filtered_by_state_tag_and_age() {
    let home = TestHome::new();
    let id = detach(&home, &["--tag", "a", "x"]);
    home.run(["wait", &id]).expect(0);
    for (arguments, found) in [
        (&["--state", "done"][..], true),
        (&["--state", "failed"], false),
        (&["--tag", "a"], true),
        (&["--tag", "b"], false),
        (&["--model", "dummy"], true),
        (&["--model", "other"], false),
        (&["--since", "1h"], true),
        (&["--older-than", "1h"], false),
        (&["--limit", "0"], false),
    ] {
        let all = ["jobs", "--json"].into_iter().chain(arguments.iter().copied());
        let jobs = home.run(all).expect(0).json();
        assert_eq!(
            jobs["jobs"].as_array().map(Vec::len),
            Some(usize::from(found)),
            "{arguments:?}"
        );
        let all = ["jobs", "--ids"].into_iter().chain(arguments.iter().copied());
        assert_eq!(home.run(all).expect(0).stdout.contains(&id), found, "{arguments:?}");
    }
}

#[test]
fn a_watched_list_tells_of_each_change() {
    let home = TestHome::new();
    let old = detach(&home, &["old"]);
    home.run(["wait", &old]).expect(0);
    let mut watching = home.threadrunner(["jobs", "--watch"]).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    assert_eq!(line(), format!("{old}  done  old"));
    let new = detach(&home, &["new"]);
    let mut told = Vec::new();
    while told.last().is_none_or(|line: &String| !line.contains("done")) {
        told.push(line());
    }
    assert!(told.iter().all(|line| line.starts_with(&new)), "{told:?}");
    assert_eq!(told.last(), Some(&format!("{new}  done  new")));
    home.run(["rm", &old]).expect(0);
    assert_eq!(line(), format!("{old}  removed"));
    home.kill(watching.id(), Signal::INT);
    Finished::from(watching.wait_with_output().unwrap()).expect(130);
}

#[test]
fn what_a_job_is_told_is_kept_attached_and_detached() {
    let home = TestHome::new();
    let first = detach(&home, &["first"]);
    let options = ["--tag", "a", "--tag", "b", "--parent", &first, "--priority", "batch"];
    let detached = detach(&home, &[&options[..], &["--timeout", "1h", "x"]].concat());
    let attached = home.run([&options[..], &["--timeout", "1h", "--json", "y"]].concat());
    let attached = attached.expect(0).json()["job"].as_str().unwrap().to_owned();
    home.run(["wait", &detached]).expect(0);
    for id in [&detached, &attached] {
        let record = home.run(["wait", "--json", id]).expect(0).json();
        assert_eq!(record["tags"], json!(["a", "b"]));
        assert_eq!((&record["parent"], &record["priority"]), (&json!(first), &json!("batch")));
        let spec = fs::read(home.workspace("output").join(id).join("job.json")).unwrap();
        let spec: Value = serde_json::from_slice(&spec).unwrap();
        assert_eq!(spec["timeout_s"], 3600.0);
    }
    let home = slow();
    home.run(["--timeout", "100ms", "x"]).expect(4);
    let id = detach(&home, &["--timeout", "100ms", "y"]);
    home.run(["wait", &id]).expect(6);
    let record = home.run(["wait", "--json", &id]).expect(6).json();
    assert_eq!(record["error"]["code"], "timeout");
}
