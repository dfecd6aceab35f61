//! Ways for threads to wait for each other, compared: alone, and beside a busy thread.

use std::error::Error;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use threadrunner_core::engine_protocol::ENGINE_ENVIRONMENT;

use crate::options::Options;

/// Variables that decide how GNU OpenMP waits; cleared before each run.
const CLEARED: [&str; 3] = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"];

struct Way {
    name: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

const WAYS: [Way; 5] = [
    Way { name: "llama.cpp's default", arguments: &[], environment: &[] },
    Way {
        name: "OMP_WAIT_POLICY=passive",
        arguments: &[],
        environment: &[("OMP_WAIT_POLICY", "passive")],
    },
    Way { name: "GOMP_SPINCOUNT=1000", arguments: &[], environment: &[("GOMP_SPINCOUNT", "1000")] },
    Way { name: "one thread", arguments: &["--threads", "1"], environment: &[] },
    Way { name: "ThreadRunner", arguments: &["--engine"], environment: ENGINE_ENVIRONMENT },
];

/// Runs every way in turn, so that the machine's moods fall on all of them.
pub(crate) fn compare(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut rates = vec![[Vec::new(), Vec::new()]; WAYS.len()];
    for _ in 0..options.repeat {
        for (way, rates) in WAYS.iter().zip(&mut rates) {
            for (busy, rates) in [false, true].into_iter().zip(rates) {
                rates.push(run(way, busy, options)?);
            }
        }
    }
    let median = |rates: &[f64]| {
        let mut rates = rates.to_vec();
        rates.sort_by(f64::total_cmp);
        let middle = rates.get(rates.len() / 2).copied().unwrap_or_default();
        let ends = rates.first().zip(rates.last());
        ends.map_or((0.0, String::new()), |(least, most)| {
            (middle, format!("{middle:.0} ({least:.0} to {most:.0})"))
        })
    };
    println!("| threads wait | alone, tokens/s | ratio | beside a busy thread | ratio |");
    println!("|---|---|---|---|---|");
    let base = [median(&rates[0][0]).0, median(&rates[0][1]).0];
    for (way, [alone, busy]) in WAYS.iter().zip(&rates) {
        let ((alone, alone_text), (busy, busy_text)) = (median(alone), median(busy));
        let (first, second) = (alone / base[0], busy / base[1]);
        println!("| {} | {alone_text} | {first:.2} | {busy_text} | {second:.2} |", way.name);
    }
    Ok(())
}

/// The decode speed of one run in a process of its own, as the variables are read at its start.
fn run(way: &Way, busy: bool, options: &Options) -> Result<f64, Box<dyn Error>> {
    let _neighbour = if busy { Some(Neighbour::start()?) } else { None };
    let sequences = options.sequences.first().copied().unwrap_or(1).to_string();
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg(&options.model)
        .args(["--prompt", "16", "--repeat", "1", "--sequences", &sequences])
        .args(["--generate", &options.generate.to_string()])
        .args(["--settle", &options.settle.as_secs_f64().to_string()])
        .args(way.arguments);
    CLEARED.iter().for_each(|name| {
        command.env_remove(name);
    });
    let output = command.envs(way.environment.iter().copied()).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let rate = &report["decode_tokens_per_s"][&sequences]["median"];
    rate.as_f64().ok_or_else(|| format!("{}: {report}", way.name).into())
}

/// A process that is busy with nothing, until it is dropped.
struct Neighbour(Child);

impl Neighbour {
    fn start() -> Result<Self, Box<dyn Error>> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
        Ok(Self(shell.spawn()?))
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // It may be gone already; either way it is not left behind.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
