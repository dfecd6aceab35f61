//! A large archive compared with a small one, both in memory.

use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use threadrunner_bench::{Series, Table, as_ms, megabytes, milliseconds, resident};

use crate::measure::{Asking, first_token, job, list, memory_home, repeat, row, submit};

/// Jobs of the archive with files. The others are empty directories, because only their names are
/// ever read here.
const REAL: usize = 100;

#[derive(Default)]
struct Costs {
    start: Series,
    token: Series,
    submit: Series,
    list_first: Series,
    asking: Asking,
    suffix: Series,
    memory: f64,
}

pub(crate) fn table(finished: usize, runs: usize) {
    let title =
        format!("{finished} finished jobs in `output/` (in memory); ms: median (min to max)");
    let table = Table::new(&title, &["what", "100", "with them", "ratio"]);
    let few = costs(0, runs);
    let all = costs(finished, runs);
    row(&table, "`threadrunner daemon start`, until it serves", &few.start, &all.start);
    row(&table, "`run`, to the first token", &few.token, &all.token);
    row(&table, "`submit`", &few.submit, &all.submit);
    row(&table, "the first `jobs` with limit 20 after a start", &few.list_first, &all.list_first);
    Asking::rows(&table, &few.asking, &all.asking);
    row(&table, "a job by the last digits of its id", &few.suffix, &all.suffix);
    let (few, all) = (megabytes(few.memory), megabytes(all.memory));
    table.row(&["the daemon's memory, then".into(), few, all, String::new()]);
    table.end();
}

fn costs(finished: usize, runs: usize) -> Costs {
    let mut costs = Costs::default();
    let home = memory_home();
    let mut client = home.connect();
    for _ in 0..REAL {
        first_token(&mut client);
    }
    drop(client);
    fill_archive(&home.workspace("output"), finished);
    for _ in 0..3 {
        home.run(["daemon", "stop"]).expect(0);
        let start = Instant::now();
        home.start_daemon();
        costs.start.push(as_ms(start.elapsed()));
        let mut client = home.connect();
        costs.list_first.push(milliseconds(|| list(&mut client)).0);
    }
    let mut client = home.connect();
    first_token(&mut client);
    costs.token = (0..runs).map(|_| first_token(&mut client)).collect();
    costs.submit = repeat(runs, || drop(submit(&mut client)));
    costs.asking = Asking::measured(&home, &mut client, runs);
    let id = job(&mut client, "last");
    let part = &id[8..];
    costs.suffix = repeat(runs.min(20), || {
        assert_eq!(job(&mut client, part), id);
    });
    costs.memory = resident(home.daemon_pid());
    costs
}

/// Adds older jobs than any there, one for each second.
fn fill_archive(output: &Path, jobs: usize) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for number in 1..=jobs as u64 {
        // Scatter the microseconds, as real submissions do.
        let micros = (now - number) * 1_000_000 + number * 7_919 % 1_000_000;
        fs::create_dir(output.join(format!("{micros:016}_4711"))).expect("a directory can be made");
    }
}
