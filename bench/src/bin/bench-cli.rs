//! What the command line costs with the dummy backend: whole processes, as a shell starts them.
//!
//! `bench-cli [--runs N]`. Expects release builds of the three programs beside it.
#![expect(clippy::print_stdout, reason = "a benchmark's table is its data")]

use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use threadrunner_bench::{Series, Table, flag, megabytes, milliseconds, resident};
use threadrunner_tests::{TestHome, program};

fn main() {
    let runs = flag("--runs", 200);
    let home = TestHome::new().with("RUST_LOG", "warn");
    let table = Table::new("Command line, dummy backend", &["what", "ms: median (min to max)"]);

    home.run(["hi"]).expect(0);
    let (mut start, mut warm, mut relaxed) = (Series::default(), Series::default(), None);
    let lazy = TestHome::new().with("RUST_LOG", "warn").config("durability = \"relaxed\"\n");
    lazy.run(["hi"]).expect(0);
    for _ in 0..runs {
        start.push(milliseconds(|| home.run(["--version"]).expect(0)).0);
        warm.push(milliseconds(|| home.run(["hi"]).expect(0)).0);
        relaxed
            .get_or_insert_with(Series::default)
            .push(milliseconds(|| lazy.run(["hi"]).expect(0)).0);
    }
    table.row(&["`threadrunner --version`: starting a process".into(), start.to_string()]);
    table.row(&["`threadrunner hi`, daemon and engine running".into(), warm.to_string()]);
    if let Some(relaxed) = relaxed {
        table.row(&["the same with `durability = \"relaxed\"`".into(), relaxed.to_string()]);
    }

    let mut cold = Series::default();
    for _ in 0..(runs / 10).max(5) {
        home.run(["daemon", "stop"]).expect(0);
        cold.push(first_byte(&home));
    }
    table.row(&["from no daemon to the first token".into(), cold.to_string()]);
    table.end();

    footprint(&home);
}

/// Milliseconds from starting the program to the first byte on its stdout.
fn first_byte(home: &TestHome) -> f64 {
    let mut command = home.threadrunner(["hi"]);
    let start = Instant::now();
    let mut child = command.spawn().expect("threadrunner can be started");
    let mut stdout = child.stdout.take().expect("stdout is a pipe");
    let mut byte = [0];
    stdout.read_exact(&mut byte).expect("there is an answer");
    let elapsed = start.elapsed().as_secs_f64() * 1e3;
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).expect("the answer has an end");
    child.wait().expect("threadrunner ends");
    elapsed
}

fn footprint(home: &TestHome) {
    let table = Table::new("At rest", &["what", "figure"]);
    home.run(["unload"]).expect(0);
    let pid = home.daemon_pid();
    std::thread::sleep(Duration::from_secs(1));
    let before = switches(pid);
    let seconds = 10;
    std::thread::sleep(Duration::from_secs(seconds));
    let woken = (switches(pid) - before) as f64 / seconds as f64;
    table.row(&["idle daemon without a model: resident memory".into(), megabytes(resident(pid))]);
    table.row(&["idle daemon: wake-ups a second".into(), format!("{woken:.1}")]);
    for name in ["threadrunner", "threadrunner-daemon"] {
        let bytes = fs::metadata(program(name)).map(|found| found.len()).unwrap_or_default();
        table.row(&[format!("`{name}`: file"), format!("{:.2} MB", bytes as f64 / 1e6)]);
    }
    table.end();
    println!();
}

/// Voluntary context switches of all threads of a process; each one ends in a wake-up.
fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .filter_map(|status| {
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        })
        .sum()
}
