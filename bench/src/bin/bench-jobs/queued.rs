//! A long queue compared with a short one.

use std::time::Instant;

use serde_json::json;
use threadrunner_bench::{Series, Table, as_ms, megabytes, resident};
use threadrunner_tests::eventually;

use crate::measure::{Asking, busy_home, fill_queue, home, queued, repeat, row, submit};

/// The length of the short queue.
const FEW: usize = 100;
/// How often each measurement that includes a start is repeated.
const STARTS: usize = 3;
/// Jobs claimed, run and ended for the throughput row.
const DRAINED: u64 = 1_000;

/// What a queue of one length costs.
#[derive(Default)]
struct Costs {
    start: Series,
    known: Series,
    memory: f64,
    submit: Series,
    asking: Asking,
    drained: Series,
}

pub(crate) fn table(many: usize, runs: usize) {
    let columns = ["what", "100 queued", &format!("{many} queued"), "ratio"];
    let table = Table::new("A long queue; ms: median (min to max)", &columns);
    let mut few = costs(FEW, runs);
    let mut all = costs(many, runs);
    for _ in 0..STARTS {
        few.drained.push(drain(FEW));
        all.drained.push(drain(many));
    }
    row(&table, "`threadrunner daemon start`, until it serves", &few.start, &all.start);
    row(&table, "until every queued job was looked at", &few.known, &all.known);
    row(&table, "`submit`", &few.submit, &all.submit);
    Asking::rows(&table, &few.asking, &all.asking);
    row(&table, &format!("jobs/s: {DRAINED} claimed, run and ended"), &few.drained, &all.drained);
    let each = (all.memory - few.memory) / (many - FEW) as f64;
    let cells = ["the daemon's memory", &megabytes(few.memory), &megabytes(all.memory)];
    table.row(&[&cells.map(str::to_owned)[..], &[format!("{each:.0} bytes a job")]].concat());
    table.end();
}

fn costs(jobs: usize, runs: usize) -> Costs {
    let mut costs = Costs::default();
    let home = busy_home();
    fill_queue(&home, jobs);
    for round in 1..=STARTS {
        let start = Instant::now();
        home.start_daemon();
        costs.start.push(as_ms(start.elapsed()));
        let mut client = home.connect();
        // All but those that the engine has claimed.
        eventually("all are known", || (queued(&mut client) + 8 >= jobs as u64).then_some(()));
        costs.known.push(as_ms(start.elapsed()));
        costs.memory = resident(home.daemon_pid());
        if round < STARTS {
            home.run(["daemon", "stop"]).expect(0);
        }
    }
    let mut client = home.connect();
    costs.submit = repeat(runs, || drop(submit(&mut client)));
    costs.asking = Asking::measured(&home, &mut client, runs);
    drop(client);
    home.run(["daemon", "stop"]).expect(0);
    costs
}

/// Jobs a second, from a queue long enough to keep its length while it drains.
fn drain(jobs: usize) -> f64 {
    // The model loads long enough that all jobs are known before the first is claimed.
    let load_ms = 3_000 + jobs / 10;
    let home = home().dummy(&json!({ "load_ms": load_ms }));
    let all = jobs as u64 + 2 * DRAINED;
    fill_queue(&home, all as usize);
    home.start_daemon();
    let mut client = home.connect();
    eventually("all are known", || (queued(&mut client) + 8 >= all).then_some(()));
    eventually("the model is loaded", || (queued(&mut client) + 16 < all).then_some(()));
    let left = queued(&mut client);
    let start = Instant::now();
    let left_then = eventually("some are drained", || {
        Some(queued(&mut client)).filter(|now| now + DRAINED <= left)
    });
    (left - left_then) as f64 / start.elapsed().as_secs_f64()
}
