//! Submitting, compared with what the file system needs to make one file durable.

use std::sync::Barrier;
use std::time::Instant;

use serde_json::json;
use threadrunner_bench::{Series, Table, milliseconds};
use threadrunner_tests::Frames;

use crate::measure::{ask, busy_home, first_token, home, own_job, own_sync, ratio, submit};

/// Clients in the row that shares syncs.
const CLIENTS: usize = 8;

pub(crate) fn tables(runs: usize) {
    one_client(runs);
    many_clients(runs);
}

fn one_client(runs: usize) {
    let home = home();
    let mut client = home.connect();
    // Loads the engine, and does everything once.
    first_token(&mut client);
    let columns = ["what", "ms: median (min to max)", "ratio to the sync"];
    let table = Table::new("One client, an idle daemon", &columns);
    let [mut own, mut job, mut detached, mut first] = <[Series; 4]>::default();
    for number in 0..runs {
        own.push(own_sync(home.root(), number));
        job.push(own_job(home.root(), number));
        let (time, id) = milliseconds(|| submit(&mut client));
        detached.push(time);
        ask(&mut client, &json!({"v": 1, "id": 1, "op": "wait", "job": id}));
        first.push(first_token(&mut client));
    }
    table.row(&[
        "the file system's own sync of one small file".into(),
        own.to_string(),
        "1".into(),
    ]);
    let cells = ["a directory and three files, as a job has: made, synced at once, renamed".into()];
    table.row(&[&cells[..], &[job.to_string(), ratio(&job, &own)]].concat());
    let cells = ["`submit`, to the id of a job that survives a power failure".into()];
    table.row(&[&cells[..], &[detached.to_string(), ratio(&detached, &own)]].concat());
    let cells = ["`run`, to the first token (its sync goes on meanwhile)".into()];
    table.row(&[&cells[..], &[first.to_string(), ratio(&first, &own)]].concat());
    table.end();
}

fn many_clients(runs: usize) {
    let home = busy_home();
    home.start_daemon();
    let columns = ["what", "jobs/s: median (min to max)", "ratio"];
    let table = Table::new("Submitting while the engine is busy: the jobs are queued", &columns);
    let (mut one, mut many) = (Series::default(), Series::default());
    for _ in 0..5 {
        one.push(rate(&home.socket(), 1, runs / 3 + 1));
        many.push(rate(&home.socket(), CLIENTS, runs / 3 + 1));
    }
    table.row(&["one client, one after the other".into(), one.to_string(), "1".into()]);
    table.row(&[format!("{CLIENTS} clients at once"), many.to_string(), ratio(&many, &one)]);
    table.end();
}

/// Jobs a second when each client submits one job after another.
fn rate(socket: &std::path::Path, clients: usize, jobs: usize) -> f64 {
    let begin = Barrier::new(clients + 1);
    std::thread::scope(|scope| {
        let working: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Frames::connect(socket);
                    begin.wait();
                    for _ in 0..jobs {
                        submit(&mut client);
                    }
                })
            })
            .collect();
        begin.wait();
        let start = Instant::now();
        for client in working {
            client.join().expect("a client submits");
        }
        (clients * jobs) as f64 / start.elapsed().as_secs_f64()
    })
}
