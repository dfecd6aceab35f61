//! Jobs that wait for other jobs and use their answers.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};
use threadrunner_tests::{TestHome, eventually};

/// Submits a job as another program does: a directory, renamed into place.
fn put(home: &TestHome, id: &str, prompt: &str, job_json: &Value) {
    let writing = home.workspace("input/writing").join(id);
    fs::create_dir(&writing).expect("a directory can be made");
    fs::write(writing.join("prompt.txt"), prompt).expect("a prompt can be written");
    fs::write(writing.join("job.json"), job_json.to_string())
        .expect("a description can be written");
    fs::rename(&writing, home.workspace("input/ready").join(id)).expect("it can be put there");
}

fn detach(home: &TestHome, arguments: &[&str]) -> String {
    let all = ["--detach"].iter().chain(arguments);
    home.run(all).expect(0).stdout.trim().to_owned()
}

fn answer(home: &TestHome, id: &str) -> String {
    home.run(["wait", id]).expect(0);
    home.run(["result", id]).expect(0).stdout.trim_end().to_owned()
}

/// Waits for a job to fail and returns the reason.
fn reason(home: &TestHome, id: &str) -> String {
    home.run(["wait", id]).expect(6);
    fs::read_to_string(home.workspace("failed").join(id).join("error.txt"))
        .expect("it has a reason")
}

fn kill_daemon(home: &TestHome) {
    let pid = home.daemon_pid();
    home.kill(pid, Signal::KILL);
    eventually("it is gone", || (!threadrunner_tests::process_is_alive(pid)).then_some(()));
}

/// A home whose jobs run until they are canceled.
fn endless() -> TestHome {
    TestHome::new().dummy(&json!({"step_ms": 20, "words": 1_000_000}))
}

#[test]
fn ten_answers_are_put_together_into_one() {
    let home = TestHome::new();
    let parts: Vec<_> = (0..10).map(|n| detach(&home, &[&format!("part{n}")])).collect();
    let mut prompt = String::from("Sum up:");
    for part in &parts {
        prompt.push_str(&format!(" {{{{result:{part}}}}}"));
    }
    let whole = detach(&home, &[&prompt]);
    let text = answer(&home, &whole);
    for n in 0..10 {
        assert!(text.contains(&format!(" part{n}.")), "{text}");
    }
    // The job's files keep what was submitted.
    let directory = home.workspace("output").join(&whole);
    assert_eq!(fs::read_to_string(directory.join("prompt.txt")).unwrap(), prompt);
    let job: Value =
        serde_json::from_slice(&fs::read(directory.join("job.json")).unwrap()).unwrap();
    assert_eq!(job["after"], json!(parts));
}

#[test]
fn an_attached_prompt_waits_and_is_told_for_what() {
    let home = endless();
    let first = detach(&home, &["first"]);
    let mut frames = home.connect();
    frames.send(&json!({"v": 1, "id": 1, "op": "run", "prompt": "x", "after": ["last"]}));
    let waiting = std::iter::from_fn(|| frames.receive()).find(|it| it["event"] == "waiting");
    let waiting = waiting.unwrap();
    assert_eq!((&waiting["on"], &waiting["others"]), (&json!(first), &json!(0)));
    let listed = home.run(["jobs"]).expect(0).stdout;
    assert!(listed.contains(&format!("queued after {first}")), "{listed}");
    let status = home.status();
    assert_eq!((&status["held"], &status["queued"]), (&json!(1), &json!(0)));
    home.run(["cancel", &first]).expect(0);
    let end = frames.answer().pop().unwrap();
    assert_eq!(end["code"], "dependency_failed", "{end}");
    assert!(end["error"].as_str().unwrap().contains(&first), "{end}");
}

#[test]
fn a_failure_goes_down_the_chain_and_after_any_goes_on() {
    let home = endless();
    let first = detach(&home, &["first"]);
    let second = detach(&home, &["--after", &first, "second"]);
    let third = detach(&home, &["--after", &second, "third"]);
    let fourth = detach(&home, &["--after", &third, "--after-any", "fourth"]);
    home.run(["cancel", &first]).expect(0);
    let second_reason = reason(&home, &second);
    assert!(second_reason.contains(&first), "{second_reason}");
    assert!(second_reason.contains("canceled"), "{second_reason}");
    assert!(reason(&home, &third).contains(&second));
    eventually("it runs", || (home.jobs_in("processing") == [fourth.as_str()]).then_some(()));
}

#[test]
fn a_held_job_can_be_canceled_and_what_it_needs_cannot_be_removed() {
    let home = endless();
    let failed = detach(&home, &["first"]);
    home.run(["cancel", &failed]).expect(0);
    let running = detach(&home, &["second"]);
    let held = detach(&home, &["--after", &failed, "--after", &running, "--after-any", "third"]);
    let refused = home.run(["rm", &failed]).expect(6);
    assert!(refused.stderr.contains(&held), "{}", refused.stderr);
    home.run(["prune", "--older-than", "0"]).expect(0);
    assert_eq!(home.jobs_in("failed"), [failed.as_str()]);
    home.run(["cancel", &held]).expect(0);
    assert_eq!(home.jobs_in("failed"), [failed.as_str(), held.as_str()]);
    home.run(["rm", &failed]).expect(0);
    assert_eq!(home.jobs_in("failed"), [held.as_str()]);
}

#[test]
fn a_chain_goes_on_after_a_crash() {
    let home = endless();
    let first = detach(&home, &["one"]);
    let second = detach(&home, &["--after", &first, "two {{result:last}}"]);
    let third = detach(&home, &["three {{result:last}}"]);
    eventually("it runs", || (home.jobs_in("processing") == [first.as_str()]).then_some(()));
    kill_daemon(&home);
    // The next daemon's dummy answers at once.
    let home = home.with("THREADRUNNER_DUMMY", json!({}).to_string());
    home.start_daemon();
    let text = answer(&home, &third);
    let words: Vec<_> = text.split_whitespace().filter(|word| word.ends_with('.')).collect();
    assert_eq!([words[0], words[6], words[12]], ["three.", "two.", "one."], "{text}");
    assert_eq!(home.jobs_in("output"), [first, second, third]);
}

#[test]
fn what_ended_while_no_daemon_ran_is_seen_by_the_next() {
    let home = endless();
    let done = detach(&home, &["one"]);
    let fails = detach(&home, &["two"]);
    let gone = detach(&home, &["three"]);
    let after_done = detach(&home, &["--after", &done, "a"]);
    let after_failed = detach(&home, &["--after", &fails, "b"]);
    let after_gone = detach(&home, &["--after", &gone, "--after-any", "c"]);
    eventually("they run", || (home.jobs_in("processing").len() == 3).then_some(()));
    kill_daemon(&home);
    // One as if the daemon had crashed after the move, the others moved and deleted by hand.
    let processing = home.workspace("processing");
    fs::write(processing.join(&done).join("result.txt"), "yes").unwrap();
    fs::rename(processing.join(&done), home.workspace("output").join(&done)).unwrap();
    fs::rename(processing.join(&fails), home.workspace("failed").join(&fails)).unwrap();
    fs::remove_dir_all(processing.join(&gone)).unwrap();
    let home = home.with("THREADRUNNER_DUMMY", json!({}).to_string());
    home.start_daemon();
    assert!(answer(&home, &after_done).ends_with("a."));
    assert!(reason(&home, &after_failed).contains(&fails));
    assert!(reason(&home, &after_gone).contains(&gone));
}

#[test]
fn an_unknown_job_is_refused_at_once() {
    let home = TestHome::new();
    let refused = home.run(["--detach", "--after", "123456", "x"]).expect(7);
    assert!(refused.stderr.contains("123456"), "{}", refused.stderr);
    let refused = home.run(["{{result:123456}}"]).expect(7);
    assert!(refused.stderr.contains("--literal"), "{}", refused.stderr);
    assert!(home.jobs_in("failed").is_empty());
    let literal = home.run(["--literal", "x{{result:123456}}x"]).expect(0).stdout;
    assert!(literal.contains("x{{result:123456}}x"), "{literal}");
    // Other text in braces is no reference.
    home.run(["{{result:soon}} {{result: 1}}"]).expect(0);
}

#[test]
fn other_programs_jobs_are_held_to_the_same_rules() {
    let home = TestHome::new();
    home.start_daemon();
    put(&home, "11", "x", &json!({"v": 1, "after": ["11"]}));
    put(&home, "12", "x", &json!({"v": 1, "after": ["99"]}));
    assert!(reason(&home, "11").contains("itself"));
    assert!(reason(&home, "12").contains("99"));
    // Both are there before either is read.
    home.run(["daemon", "stop"]).expect(0);
    put(&home, "21", "x", &json!({"v": 1, "after": ["22"]}));
    put(&home, "22", "x", &json!({"v": 1, "after": ["21"]}));
    home.start_daemon();
    assert!(reason(&home, "21").contains("22"));
    assert!(reason(&home, "22").contains("itself"));
    // A malformed job fails, and so does the one that waits for it.
    home.run(["daemon", "stop"]).expect(0);
    put(&home, "31", "x", &json!({"v": 1, "after": ["32"]}));
    put(&home, "32", "", &json!({"v": 1}));
    home.start_daemon();
    assert!(reason(&home, "31").contains("32"));
}

#[test]
fn only_a_template_has_references() {
    let home = TestHome::new();
    let first = detach(&home, &["one"]);
    answer(&home, &first);
    let prompt = format!("x{{{{result:{first}}}}}x");
    put(&home, "11", &prompt, &json!({"v": 1}));
    put(&home, "12", &prompt, &json!({"v": 1, "template": true, "after": [first]}));
    put(&home, "13", "{{result:99}}", &json!({"v": 1, "template": true}));
    assert!(answer(&home, "11").ends_with(&format!("{prompt}.")));
    assert!(answer(&home, "12").ends_with(" xlorem. ipsum. dolor. sit. amet. one.x."));
    assert!(reason(&home, "13").contains("99"));
}

#[test]
fn what_is_piped_in_is_data_and_has_no_references() {
    let home = TestHome::new();
    let piped = b"x{{result:last}}x x{{result:99}}x\n";
    // There is no job yet that it could refer to.
    let alone = home.run_with_input(["-"], piped).expect(0).stdout;
    assert!(alone.contains(" x{{result:last}}x. x{{result:99}}x."), "{alone}");
    let after = home.run_with_input(["Summarize"], piped).expect(0).stdout;
    assert!(after.contains(" Summarize. x{{result:last}}x. x{{result:99}}x."), "{after}");
    let one = detach(&home, &["one"]);
    answer(&home, &one);
    let reference = format!("é {{{{result:{}}}}}", &one[..one.len() - 1]);
    let both = home.run_with_input([reference.as_str(), "b"], piped).expect(0).stdout;
    assert!(
        both.contains(" é. lorem. ipsum. dolor. sit. amet. one. b. x{{result:last}}x."),
        "{both}"
    );
    // The same holds after a restart and for a new attempt.
    let last = home.jobs_in("output").pop().unwrap();
    let spec = std::fs::read_to_string(home.workspace("output").join(&last).join("job.json"));
    let spec: serde_json::Value = serde_json::from_str(&spec.unwrap()).unwrap();
    assert_eq!(spec["template_bytes"], "é  b".len() + "{{result:}}".len() + one.len());
    let system = home.run_with_input(["--system", &reference], piped).expect(0).stdout;
    assert!(system.contains(" x{{result:last}}x."), "{system}");
}

#[test]
fn a_part_to_be_read_ends_between_characters_of_the_prompt() {
    let home = TestHome::new();
    let mut client = home.connect();
    for bytes in [1_u64, 3, 1 << 40] {
        let request = json!({
            "v": 1, "id": 1, "op": "submit", "prompt": "é", "template": true,
            "template_bytes": bytes,
        });
        let answer = client.ask(&request).pop().unwrap();
        assert_eq!(answer["code"], "invalid_request");
        assert!(answer["error"].as_str().unwrap().contains("template_bytes"), "{answer}");
    }
}

#[test]
fn an_answer_is_put_in_as_it_is_and_not_read_again() {
    let home = TestHome::new();
    let first = detach(&home, &["one"]);
    answer(&home, &first);
    let result = home.workspace("output").join(&first).join("result.txt");
    fs::write(result, "a{{result:last}}b").unwrap();
    let second = home.run(["--system", "Be {{result:last}}", "say {{result:last}}"]);
    let second = second.expect(0).stdout;
    assert!(second.contains(" a{{result:last}}b."), "{second}");
}

#[test]
fn answers_beyond_the_limit_fail_the_job_that_wants_them() {
    let home = TestHome::new();
    let first = detach(&home, &["one"]);
    answer(&home, &first);
    let result = home.workspace("output").join(&first).join("result.txt");
    fs::write(&result, vec![b'a'; (8 << 20) + 1]).unwrap();
    let refused = home.run(["{{result:last}}"]).expect(64);
    assert!(refused.stderr.contains("bytes"), "{}", refused.stderr);
}

#[test]
fn a_client_that_goes_away_cancels_what_it_waited_for_and_those_that_wait_for_that() {
    let home = endless();
    let first = detach(&home, &["first"]);
    let mut frames = home.connect();
    frames.send(&json!({"v": 1, "id": 1, "op": "run", "prompt": "x", "after": [first]}));
    let accepted = std::iter::from_fn(|| frames.receive()).find(|it| it["event"] == "accepted");
    let held = accepted.unwrap()["job"].as_str().unwrap().to_owned();
    let next = detach(&home, &["--after", &held, "second"]);
    drop(frames);
    assert!(reason(&home, &next).contains(&held));
    assert_eq!(home.jobs_in("failed"), [held, next]);
    assert_eq!(home.jobs_in("processing"), [first]);
}
