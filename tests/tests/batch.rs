//! `batch`: a file of prompts answered line by line, whatever is killed meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

use rustix::process::Signal;
use serde_json::{Value, json};
use threadrunner_tests::{Finished, TestHome, eventually};

/// A home with an input file.
struct Story {
    home: TestHome,
}

impl Story {
    fn new(home: TestHome, input: &str) -> Self {
        let story = Self { home };
        story.home.run(["daemon", "start"]).expect(0);
        fs::write(story.path("in.jsonl"), input).expect("the home can be written");
        story
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.root().join(name)
    }

    fn arguments(&self) -> [String; 4] {
        let path = |name| self.path(name).to_str().expect("a path is UTF-8").to_owned();
        ["batch".to_owned(), path("in.jsonl"), "-o".to_owned(), path("out.jsonl")]
    }

    fn run(&self, more: &[&str]) -> Finished {
        let arguments = self.arguments();
        self.home.run(arguments.iter().map(String::as_str).chain(more.iter().copied()))
    }

    fn start(&self) -> Child {
        self.home.threadrunner(self.arguments()).spawn().expect("threadrunner can be started")
    }

    fn output(&self) -> String {
        fs::read_to_string(self.path("out.jsonl")).unwrap_or_default()
    }

    fn lines(&self) -> Vec<Value> {
        let text = self.output();
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    /// The output's lines by id; panics if an id occurs twice.
    fn by_id(&self) -> BTreeMap<String, Value> {
        let lines = self.lines();
        let count = lines.len();
        let map: BTreeMap<_, _> =
            lines.into_iter().map(|line| (line["id"].to_string(), line)).collect();
        assert_eq!(map.len(), count, "an id is there twice");
        map
    }

    /// Waits until the output has this many lines.
    fn until(&self, lines: usize) {
        eventually("answers", || (self.output().lines().count() >= lines).then_some(()));
    }

    /// Suspends the daemon and starts the batch: on return its jobs are on their way, and the
    /// daemon has heard of none. Returns the batch and the daemon's process id.
    fn start_unheard(&self) -> (Child, u32) {
        let daemon = self.home.daemon_pid();
        self.home.kill(daemon, Signal::STOP);
        let batch = self.start();
        let run = self.home.root().join("run");
        eventually("jobs are noted", || {
            let mut names = fs::read_dir(&run).ok()?.flatten();
            let ledger = names.find(|it| it.file_name().to_string_lossy().starts_with("batch-"))?;
            // Each record is a line; the first describes the batch.
            let records = fs::read_to_string(ledger.path()).ok()?;
            (records.lines().filter(|line| line.contains("\"job\"")).count() >= 8).then_some(())
        });
        (batch, daemon)
    }

    /// Prompts of all jobs, in any state, sorted.
    fn prompts(&self) -> Vec<String> {
        let mut prompts = Vec::new();
        for place in ["input/ready", "processing", "output", "failed"] {
            for job in self.home.jobs_in(place) {
                let path = self.home.workspace(place).join(job).join("prompt.txt");
                prompts.extend(fs::read_to_string(path));
            }
        }
        prompts.sort();
        prompts
    }
}

fn numbered(count: usize) -> String {
    (1..=count).map(|n| format!("{{\"id\":\"n{n}\",\"prompt\":\"number {n}\"}}\n")).collect()
}

fn assert_numbered(story: &Story, count: usize) {
    let lines = story.by_id();
    assert_eq!(lines.len(), count);
    for n in 1..=count {
        let line = &lines[&format!("\"n{n}\"")];
        assert_eq!(line["text"], format!("lorem ipsum dolor sit amet number. {n}."));
    }
}

#[test]
fn each_line_has_its_answer_once() {
    let story = Story::new(
        TestHome::new(),
        "{\"id\":\"a\",\"prompt\":\"Hello\"}\n\n{\"prompt\":\"no id\"}\n\
         {\"id\":7,\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":2}\n",
    );
    let finished = story.run(&[]).expect(0);
    assert!(finished.stderr.contains("3 done"), "{}", finished.stderr);
    let lines = story.by_id();
    assert_eq!(lines["\"a\""]["text"], "lorem ipsum dolor sit amet Hello.");
    assert_eq!(lines["3"]["text"], "lorem ipsum dolor sit amet no. id.");
    assert_eq!(lines["7"]["text"], "lorem ipsum");
    assert_eq!(lines["7"]["finish_reason"], "length");
    for key in ["job", "model", "usage", "timings"] {
        assert!(!lines["7"][key].is_null(), "{key}");
    }
    let before = story.output();
    story.run(&[]).expect(0);
    assert_eq!(story.output(), before);
    assert_eq!(story.prompts().len(), 3);
    let left = fs::read_dir(story.path("run")).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.starts_with("batch-")), "{left:?}");
}

#[test]
fn a_bad_line_is_told_by_its_number_and_stops_no_other() {
    let story = Story::new(
        TestHome::new(),
        "{\"id\":\"a\",\"prompt\":\"one\"}\nnot json\n{\"id\":\"b\"}\n\
         {\"id\":\"a\",\"prompt\":\"again\"}\n{\"id\":\"c\",\"prompt\":\"x\",\"max_tokens\":\"many\"}\n\
         {\"id\":\"d\",\"prompt\":\"x\",\"temperature\":-1}\n{\"id\":\"e\",\"prompt\":\"five\"}\n",
    );
    let finished = story.run(&[]).expect(6);
    for said in ["line 2: ", "line 3: ", "line 4: ", "line 5: ", "line 6: ", "2 done, 5 failed"] {
        assert!(finished.stderr.contains(said), "{said} in {}", finished.stderr);
    }
    let lines = story.lines();
    assert_eq!(lines.len(), 7);
    let repeated = lines.iter().find(|line| line["error"]["line"] == 4).unwrap();
    assert_eq!((&repeated["id"], &repeated["error"]["duplicate_of"]), (&json!("a"), &json!(1)));
    let before = story.output();
    story.run(&[]).expect(6);
    assert_eq!(story.output(), before);
    // Once the input is corrected, failed lines can be tried again.
    let mended = fs::read_to_string(story.path("in.jsonl"))
        .unwrap()
        .replace("not json", "{\"prompt\":\"two\"}")
        .replace("{\"id\":\"b\"}", "{\"id\":\"b\",\"prompt\":\"three\"}")
        .replace("\"id\":\"a\",\"prompt\":\"again\"", "\"id\":\"f\",\"prompt\":\"four\"")
        .replace("\"many\"", "9")
        .replace("-1", "0");
    fs::write(story.path("in.jsonl"), mended).unwrap();
    story.run(&["--retry-failed"]).expect(0);
    assert_eq!(story.by_id().len(), 7);
    assert!(!story.output().contains("error"));
    assert_eq!(story.prompts().len(), 7);
}

#[test]
fn a_line_that_cannot_be_read_takes_no_other_lines_id() {
    let story = Story::new(
        TestHome::new(),
        "{\"id\":0,\"prompt\":\"zero\"}\noops\n{\"id\":2,\"prompt\":\"two\"}\n\
         {\"prompt\":\"no id\"}\n{\"id\":4,\"prompt\":\"four\"}\n",
    );
    let finished = story.run(&[]).expect(6);
    assert!(finished.stderr.contains("4 done, 1 failed"), "{}", finished.stderr);
    let answer = |words: &str| json!(format!("lorem ipsum dolor sit amet {words}"));
    let check = || {
        let lines = story.lines();
        assert_eq!(lines.len(), 5);
        let of = |id: Value, line: Value| {
            lines.iter().find(|it| it["id"] == id && it["line"] == line).unwrap()
        };
        assert_eq!(of(json!(0), Value::Null)["text"], answer("zero."));
        assert_eq!(of(json!(2), Value::Null)["text"], answer("two."));
        assert_eq!(of(json!(4), Value::Null)["text"], answer("four."));
        assert_eq!(of(json!(4), json!(4))["text"], answer("no. id."));
        assert_eq!(of(Value::Null, json!(2))["error"]["line"], 2);
    };
    check();
    let before = story.output();
    story.run(&[]).expect(6);
    assert_eq!(story.output(), before);
    story.run(&["--retry-failed"]).expect(6);
    check();
    assert_eq!(story.prompts().len(), 4);
}

#[test]
fn openai_batches_are_answered_in_their_own_format() {
    let chat = json!({"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": {
        "model": "gpt-x", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50,
    }});
    let bad = json!({"custom_id": "r-2", "method": "POST", "url": "/v1/embeddings", "body": {}});
    let story = Story::new(TestHome::new(), &format!("{chat}\n{bad}\n"));
    story.run(&[]).expect(6);
    let lines = story.lines();
    let line = |id: &str| lines.iter().find(|line| line["custom_id"] == id).unwrap();
    let answered = line("r-1");
    assert_eq!(answered["response"]["status_code"], 200);
    let choice = &answered["response"]["body"]["choices"][0];
    assert_eq!(choice["message"]["content"], "lorem ipsum dolor sit amet Hello.");
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(answered["error"], Value::Null);
    assert_eq!(line("r-2")["response"]["status_code"], 400);
    assert_eq!(line("r-2")["error"]["line"], 2);
    let before = story.output();
    story.run(&[]).expect(6);
    assert_eq!(story.output(), before);
}

#[test]
fn pipes_take_answers_as_they_come() {
    let home = TestHome::new();
    let finished = home.run_with_input(["batch", "-"], numbered(50).as_bytes()).expect(0);
    let ids: BTreeSet<String> = finished
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 50);
    assert!(finished.stderr.contains("50 done"), "{}", finished.stderr);
}

#[test]
fn a_batch_that_is_killed_again_and_again_goes_on_where_it_was() {
    let story = Story::new(TestHome::new().dummy(&json!({"step_ms": 1})), &numbered(2_000));
    for lines in [1, 300, 900, 1_500] {
        let mut batch = story.start();
        story.until(lines);
        home_kill(&story.home, &mut batch);
    }
    story.run(&[]).expect(0);
    assert_numbered(&story, 2_000);
    // Every job that a kill left behind was found again.
    let prompts = story.prompts();
    assert_eq!(prompts.iter().collect::<BTreeSet<_>>().len(), 2_000);
    assert_eq!(prompts.len(), 2_000);
}

#[test]
fn a_batch_outlives_the_daemon() {
    let story = Story::new(TestHome::new().dummy(&json!({"step_ms": 2})), &numbered(600));
    let batch = story.start();
    for lines in [20, 200, 400] {
        story.until(lines);
        story.home.kill(story.home.daemon_pid(), Signal::KILL);
    }
    Finished::from(batch.wait_with_output().unwrap()).expect(0);
    assert_numbered(&story, 600);
    assert_eq!(story.prompts().len(), 600);
}

#[test]
fn a_line_that_was_cut_short_is_written_anew() {
    let story = Story::new(TestHome::new(), &numbered(20));
    story.run(&[]).expect(0);
    let text = story.output();
    let second_last = text.trim_end().rfind('\n').unwrap();
    fs::write(story.path("out.jsonl"), &text[..second_last + 10]).unwrap();
    story.run(&[]).expect(0);
    assert_numbered(&story, 20);
}

#[test]
fn output_that_goes_away_midway_is_not_done() {
    let slow = json!({"step_ms": 5});
    type Change = fn(&Path);
    let changes: [(&str, Change); 3] = [
        ("was removed", |out| fs::remove_file(out).unwrap()),
        ("was replaced", |out| {
            fs::write(out.with_extension("new"), "").unwrap();
            fs::rename(out.with_extension("new"), out).unwrap();
        }),
        ("was cut short", |out| fs::write(out, "").unwrap()),
    ];
    for (what, change) in changes {
        let story = Story::new(TestHome::new().dummy(&slow), &numbered(300));
        let batch = story.start();
        story.until(10);
        change(&story.path("out.jsonl"));
        let finished = Finished::from(batch.wait_with_output().unwrap()).expect(74);
        assert!(finished.stderr.contains(what), "{}", finished.stderr);
        assert!(!finished.stderr.contains("done"), "{}", finished.stderr);
        story.run(&[]).expect(0);
        assert_numbered(&story, 300);
    }
}

#[test]
fn a_ledger_whose_jobs_were_mixed_up_puts_no_answer_on_another_line() {
    let story = Story::new(TestHome::new().dummy(&json!({"step_ms": 20})), &numbered(60));
    let mut batch = story.start();
    story.until(1);
    home_kill(&story.home, &mut batch);
    let run = story.home.root().join("run");
    let mut files = fs::read_dir(run).unwrap().flatten().map(|entry| entry.path());
    let ledger = files
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("batch-"))
        .unwrap();
    let text = fs::read_to_string(&ledger).unwrap();
    let mut records: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let under_way: Vec<usize> =
        (1..records.len()).filter(|&at| records[at]["job"].is_string()).collect();
    assert!(under_way.len() > 10, "{text}");
    let mut jobs: Vec<Value> = under_way.iter().map(|&at| records[at]["job"].clone()).collect();
    jobs.rotate_left(1);
    for (&at, job) in under_way.iter().zip(jobs) {
        records[at]["job"] = job;
    }
    let mixed: String = records.iter().map(|it| format!("{:<255}\n", it.to_string())).collect();
    fs::write(&ledger, mixed).unwrap();
    story.run(&[]).expect(0);
    assert_numbered(&story, 60);
}

#[test]
fn an_interrupted_batch_cancels_its_jobs_and_says_how_to_go_on() {
    let story = Story::new(TestHome::new().dummy(&json!({"step_ms": 20})), &numbered(200));
    let batch = story.start();
    story.until(10);
    story.home.kill(batch.id(), Signal::INT);
    let finished = interrupted(&story, batch, 200);
    assert!(finished.stderr.contains("run the same command again"), "{}", finished.stderr);
    assert!(finished.stderr.contains("canceled"), "{}", finished.stderr);
}

/// Checks that an interrupted batch leaves no job queued and can be resumed by running it again.
fn interrupted(story: &Story, batch: Child, lines: usize) -> Finished {
    let finished = Finished::from(batch.wait_with_output().expect("it ends")).expect(130);
    assert_eq!(story.home.jobs_in("input/ready"), [] as [&str; 0]);
    story.run(&[]).expect(0);
    assert_numbered(story, lines);
    finished
}

#[test]
fn an_interrupted_batch_cancels_what_the_daemon_has_not_heard_of_yet() {
    let story = Story::new(TestHome::new().dummy(&json!({"step_ms": 20})), &numbered(100));
    let (batch, daemon) = story.start_unheard();
    story.home.kill(batch.id(), Signal::INT);
    story.home.kill(daemon, Signal::CONT);
    interrupted(&story, batch, 100);
}

#[test]
fn what_a_killed_batch_had_asked_is_not_asked_twice_also_when_it_is_heard_late() {
    let story = Story::new(TestHome::new().dummy(&json!({"step_ms": 1})), &numbered(100));
    let (mut killed, daemon) = story.start_unheard();
    home_kill(&story.home, &mut killed);
    let batch = story.start();
    story.home.kill(daemon, Signal::CONT);
    Finished::from(batch.wait_with_output().unwrap()).expect(0);
    assert_numbered(&story, 100);
    story.home.run(["wait", "--all"]).expect(0);
    assert_eq!(story.prompts().len(), 100);
}

#[test]
fn a_full_queue_is_waited_out() {
    let home = TestHome::new().config("max_queue = 5\n");
    let story = Story::new(home, &numbered(100));
    story.run(&[]).expect(0);
    assert_numbered(&story, 100);
}

#[test]
fn what_cannot_be_right_is_refused_before_anything_is_written() {
    let story = Story::new(TestHome::new().dummy(&json!({"step_ms": 20})), &numbered(50));
    let [batch, input, option, out] = story.arguments();
    let same = story.home.run([&batch, &input, &option, &input]).expect(64);
    assert!(same.stderr.contains("the input and the output"), "{}", same.stderr);
    story.home.run([batch.as_str(), "no-such-file", "-o", &out]).expect(7);
    assert!(!story.path("out.jsonl").exists());
    let mut first = story.start();
    story.until(1);
    let second = story.run(&[]).expect(64);
    assert!(second.stderr.contains("another batch"), "{}", second.stderr);
    home_kill(&story.home, &mut first);
    fs::write(story.path("other"), "dear diary\n").unwrap();
    let other = story.path("other");
    let refused = story.home.run([&batch, &input, &option, other.to_str().unwrap()]).expect(64);
    assert!(refused.stderr.contains("line 1 is not from a batch"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(other).unwrap(), "dear diary\n");
}

#[test]
fn a_model_that_is_not_there_stops_the_batch_and_a_lines_own_does_not() {
    let story = Story::new(
        TestHome::new(),
        "{\"id\":1,\"prompt\":\"x\",\"backend\":\"llama\",\"model\":\"no-such\"}\n\
         {\"id\":2,\"prompt\":\"x\"}\n",
    );
    story.run(&[]).expect(6);
    assert_eq!(story.by_id()["1"]["error"]["code"], "model_not_found");
    assert!(story.by_id()["2"]["text"].is_string());
    fs::remove_file(story.path("out.jsonl")).unwrap();
    story.run(&["--backend", "llama", "-m", "no-such"]).expect(3);
    assert_eq!(story.lines().len(), 1);
}

fn home_kill(home: &TestHome, child: &mut Child) {
    home.kill(child.id(), Signal::KILL);
    child.wait().expect("it can be waited for");
}
