//! What the queue costs: submitting, a long queue, a large archive, and other programs' jobs. Runs
//! real processes with the dummy backend.
//!
//! `bench-jobs [--runs N] [--queued N] [--finished N] [TABLE...]`; the tables are `submit`,
//! `workspace`, `queued`, `finished` and `foreign`. Expects release builds of the three programs
//! beside it. The homes are in /tmp, which should be on a disk, not in memory. Only the finished
//! jobs are in memory, in /dev/shm, because a million directories take 4 GB on a disk.
#![expect(clippy::print_stdout, reason = "a benchmark's table is its data")]

mod finished;
mod foreign;
mod measure;
mod queued;
mod submit;
mod workspace;

use threadrunner_bench::flag;

fn main() {
    let runs = flag("--runs", 300);
    let (queued, finished) = (flag("--queued", 100_000), flag("--finished", 1_000_000));
    let tables: [(&str, &dyn Fn()); 5] = [
        ("submit", &|| submit::tables(runs)),
        ("workspace", &|| workspace::table(runs)),
        ("queued", &|| queued::table(queued, runs)),
        ("finished", &|| finished::table(finished, runs)),
        ("foreign", &|| foreign::table(runs)),
    ];
    let wanted: Vec<_> = std::env::args().collect();
    let some = tables.iter().any(|(name, _)| wanted.iter().any(|wanted| wanted == name));
    for (name, print) in tables {
        if !some || wanted.iter().any(|wanted| wanted == name) {
            print();
        }
    }
    println!();
}
