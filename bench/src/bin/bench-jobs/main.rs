//! What the queue costs: submitting, a long queue, a large archive, other programs' jobs. Real
//! processes with the dummy backend.
//!
//! `bench-jobs [--runs N] [--queued N] [--finished N]`. Expects release builds of the three
//! programs beside it. The homes are in /tmp: it should be on a disk, not in memory.
#![expect(clippy::print_stdout, reason = "a benchmark's table is its data")]

mod finished;
mod foreign;
mod measure;
mod queued;
mod submit;

use threadrunner_bench::flag;

fn main() {
    let runs = flag("--runs", 300);
    submit::tables(runs);
    queued::table(flag("--queued", 100_000), runs);
    finished::table(flag("--finished", 1_000_000), runs);
    foreign::table(runs);
    println!();
}
