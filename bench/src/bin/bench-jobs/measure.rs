//! What the tables share: homes, requests, and figures from the daemon.

use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime};

use serde_json::{Value, json};
use threadrunner_bench::{Series, Table, as_ms, milliseconds};
use threadrunner_core::{BackendKind, JobMeta, JobSpec, ModelRef};
use threadrunner_tests::{Frames, TestHome};
use threadrunner_workspace::{Durability, NewJob, Options, Workspace};

/// About as long as a person's question.
pub(crate) const PROMPT: &str =
    "Why is the sky blue, and why is it red in the evening, when the sun is low?";

/// A home whose daemon logs no more than a user's would.
pub(crate) fn home() -> TestHome {
    configured(TestHome::new())
}

/// The same in memory.
pub(crate) fn memory_home() -> TestHome {
    configured(TestHome::under(Path::new("/dev/shm")))
}

fn configured(home: TestHome) -> TestHome {
    home.with("RUST_LOG", "warn").config("max_queue = 10_000_000\ngrace = 0\n")
}

/// A home whose engine never finishes a job, so that the queue stays as it is.
pub(crate) fn busy_home() -> TestHome {
    home().dummy(&json!({"step_ms": 1000, "words": 1_000_000}))
}

/// Sends a request and returns the last frame of its answer.
pub(crate) fn ask(client: &mut Frames, request: &Value) -> Value {
    client.ask(request).pop().unwrap_or_default()
}

/// Submits a detached job and returns its id, by then safe from a power failure.
pub(crate) fn submit(client: &mut Frames) -> String {
    let answer = ask(client, &json!({"v": 1, "id": 1, "op": "submit", "prompt": PROMPT}));
    match answer["data"]["job"].as_str() {
        Some(id) => id.to_owned(),
        None => panic!("not submitted: {answer}"),
    }
}

/// Makes one file durable, as the baseline for the file system. The file stays until its home is
/// removed: to create a file, ext4 without a journal looks at all the files removed in the last
/// minutes.
pub(crate) fn own_sync(directory: &Path, number: usize) -> f64 {
    use std::io::Write as _;
    let path = directory.join(format!("own-{number}"));
    milliseconds(|| {
        let mut file = fs::File::create(&path).expect("a file can be made");
        file.write_all(&[b'x'; 300]).expect("a file can be written");
        file.sync_all().expect("a file can be synced");
    })
    .0
}

/// Writes a job's files (a directory with three files), syncs them and renames the directory: the
/// least that any program needs. The directory stays, for the same reason.
pub(crate) fn own_job(directory: &Path, number: usize) -> f64 {
    let [made, moved] = ["made", "moved"].map(|name| directory.join(format!("{name}-{number}")));
    let disk = fs::File::open(directory).expect("a home can be opened");
    milliseconds(|| {
        fs::create_dir(&made).expect("a directory can be made");
        for (name, bytes) in [("prompt.txt", 76), ("job.json", 400), ("meta.json", 150)] {
            fs::write(made.join(name), vec![b'x'; bytes]).expect("a file can be made");
        }
        rustix::fs::syncfs(&disk).expect("a disk can be synced");
        fs::rename(&made, &moved).expect("a directory can be renamed");
    })
    .0
}

/// Puts jobs into the queue of a home whose daemon is not running.
pub(crate) fn fill_queue(home: &TestHome, jobs: usize) {
    let options = Options { durability: Durability::Relaxed, ..Options::default() };
    let (mut workspace, _) = Workspace::open(&home.workspace(""), options, SystemTime::now())
        .expect("the workspace is nobody's");
    let model = ModelRef { backend: BackendKind::Dummy, path: None, draft: None };
    for number in 0..jobs {
        let job = NewJob {
            id: workspace.next_id(SystemTime::now()),
            prompt: PROMPT.to_owned(),
            spec: JobSpec { model: Some(model.clone()), ..JobSpec::default() },
            meta: JobMeta { tags: vec!["bench".to_owned()], ..JobMeta::default() },
        };
        workspace.submit(job, SystemTime::now()).expect("a job can be submitted");
        if number % 256 == 255 || number + 1 == jobs {
            assert!(workspace.sync().failed.is_empty(), "all are submitted");
        }
    }
    settle(home);
}

/// Syncs what was only prepared, so that no measured sync waits for it.
pub(crate) fn settle(home: &TestHome) {
    let directory = fs::File::open(home.root()).expect("a home can be opened");
    rustix::fs::syncfs(&directory).expect("a disk can be synced");
}

/// How many jobs the daemon has queued.
pub(crate) fn queued(client: &mut Frames) -> u64 {
    ask(client, &json!({"v": 1, "id": 1, "op": "status"}))["data"]["queued"].as_u64().unwrap_or(0)
}

/// Milliseconds from a prompt to the first token of its answer.
pub(crate) fn first_token(client: &mut Frames) -> f64 {
    let start = Instant::now();
    client.send(&json!({"v": 1, "id": 1, "op": "run", "prompt": PROMPT}));
    let mut first = None;
    loop {
        let frame = client.receive().expect("an answer has an end");
        if frame["token"].is_string() {
            first.get_or_insert_with(|| as_ms(start.elapsed()));
        }
        if frame["eos"] == true || frame.get("error").is_some() {
            return first.unwrap_or_else(|| panic!("no token: {frame}"));
        }
    }
}

/// Times each of `times` repetitions.
pub(crate) fn repeat(times: usize, mut what: impl FnMut()) -> Series {
    (0..times).map(|_| milliseconds(&mut what).0).collect()
}

/// What it costs to ask about jobs.
#[derive(Default)]
pub(crate) struct Asking {
    list: Series,
    command: Series,
    last: Series,
}

impl Asking {
    /// Measures each way of asking, at most 50 times.
    pub(crate) fn measured(home: &TestHome, client: &mut Frames, runs: usize) -> Self {
        let runs = runs.min(50);
        Self {
            list: repeat(runs, || list(client)),
            command: repeat(runs, || drop(home.run(["jobs"]).expect(0))),
            last: repeat(runs, || drop(job(client, "last"))),
        }
    }

    pub(crate) fn rows(table: &Table, few: &Self, all: &Self) {
        row(table, "`jobs` with limit 20, over the socket", &few.list, &all.list);
        row(table, "`threadrunner jobs`, the whole command", &few.command, &all.command);
        row(table, "the job `last`, over the socket", &few.last, &all.last);
    }
}

/// Asks for the newest 20 jobs; there must be as many.
pub(crate) fn list(client: &mut Frames) {
    let answer = ask(client, &json!({"v": 1, "id": 1, "op": "jobs", "limit": 20}));
    assert_eq!(answer["data"]["jobs"].as_array().map(Vec::len), Some(20));
}

/// Asks for a job by its id, a part of it, or `last`, and returns the id.
pub(crate) fn job(client: &mut Frames, name: &str) -> String {
    let answer = ask(client, &json!({"v": 1, "id": 1, "op": "job", "job": name}));
    answer["data"]["job"].as_str().expect("there is one").to_owned()
}

/// Prints a row with two series and their ratio.
pub(crate) fn row(table: &Table, what: &str, few: &Series, all: &Series) {
    table.row(&[what.into(), few.to_string(), all.to_string(), ratio(all, few)]);
}

/// Formats a ratio as a table cell.
pub(crate) fn ratio(of: &Series, to: &Series) -> String {
    format!("{:.2}", of.ratio(to))
}
