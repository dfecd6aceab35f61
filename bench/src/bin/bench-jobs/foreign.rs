//! Jobs that another program renames into `input/ready`, compared with what nrvna-ai's source says
//! about its own.

use std::fs;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use threadrunner_bench::{Series, Table, as_ms};
use threadrunner_tests::{TestHome, eventually};

use crate::measure::{PROMPT, first_token, home};

/// Jobs in the row that measures throughput.
const MANY: usize = 2_000;

pub(crate) fn table(runs: usize) {
    let columns = ["what", "ThreadRunner, measured", "nrvna-ai, by its source"];
    let table = Table::new("Directories renamed into `input/ready`, dummy backend", &columns);
    let home = home();
    first_token(&mut home.connect());
    let (mut taken, mut done) = (Series::default(), Series::default());
    for number in 0..runs {
        let (take, end) = pick_up(&home, number);
        taken.push(take);
        done.push(end);
    }
    let before = home.jobs_in("output").len();
    let waiting: Vec<_> = (0..MANY).map(|number| prepare(&home, runs + number)).collect();
    let start = Instant::now();
    for (writing, ready) in waiting {
        fs::rename(writing, ready).expect("a job can be moved");
    }
    let output = home.workspace("output");
    eventually("all are done", || {
        let done = fs::read_dir(&output).into_iter().flatten().count();
        (done >= before + MANY).then_some(())
    });
    let rate = MANY as f64 / start.elapsed().as_secs_f64();
    let poll = "0 to 5000 ms: looks every 5 s";
    table.row(&["until it is taken up, ms".into(), taken.to_string(), poll.into()]);
    table.row(&["until its result is in `output`, ms".into(), done.to_string(), "-".into()]);
    table.row(&[format!("jobs/s, of {MANY} at once"), format!("{rate:.0}"), "-".into()]);
    table.end();
}

/// Makes a job and returns its path and the one to rename it to.
fn prepare(home: &TestHome, number: usize) -> (PathBuf, PathBuf) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let id = format!("{now:016}_4711_{number}");
    let writing = home.workspace("input/writing").join(&id);
    fs::create_dir(&writing).expect("a directory can be made");
    fs::write(writing.join("prompt.txt"), PROMPT).expect("a prompt can be written");
    (writing, home.workspace("input/ready").join(&id))
}

/// Milliseconds until a job has left `ready`, and until its result exists.
fn pick_up(home: &TestHome, number: usize) -> (f64, f64) {
    let (writing, ready) = prepare(home, number);
    let id = ready.file_name().expect("a job has a name").to_owned();
    let result = home.workspace("output").join(id).join("result.txt");
    let start = Instant::now();
    fs::rename(writing, &ready).expect("a job can be moved");
    let until = |there: &dyn Fn() -> bool| {
        while !there() {
            std::thread::park_timeout(std::time::Duration::from_micros(100));
        }
        as_ms(start.elapsed())
    };
    (until(&|| !ready.exists()), until(&|| result.exists()))
}
