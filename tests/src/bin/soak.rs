//! `soak [--seed N] [--seconds N] [--kills N]`: runs clients of every kind while daemon and engines
//! are killed at random, then counts everything. Exits with 1 if anything was lost or done twice.
#![expect(clippy::print_stdout, reason = "the report is this program's data")]

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use threadrunner_tests::soak::{Plan, soak};

fn main() -> ExitCode {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let plan = Plan {
        seed: number("--seed").unwrap_or(u64::from(now.subsec_nanos())),
        time: Duration::from_secs(number("--seconds").unwrap_or(60)),
        kills: number("--kills").map_or(u32::MAX, |kills| u32::try_from(kills).unwrap_or(u32::MAX)),
    };
    println!("seed: {}", plan.seed);
    let report = soak(plan);
    println!("{report}");
    if report.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The number after a flag.
fn number(flag: &str) -> Option<u64> {
    let value = std::env::args().skip_while(|argument| argument != flag).nth(1)?;
    match value.parse() {
        Ok(number) => Some(number),
        Err(error) => panic!("{flag} {value}: {error}"),
    }
}
