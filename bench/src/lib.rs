//! Shared parts of the benchmark programs: series of figures, tables to paste into
//! `docs/benchmarks.md`, and the two runtimes measured: the daemon and llama.cpp's own server.
//!
//! A [`Series`] collects figures and prints their median and range; a [`Table`] prints rows, and
//! how busy the processors were. [`work`] has what is asked of a [`work::Runtime`], whichever it
//! is: [`server`] is a daemon in a home of its own, [`llama_server`] its peer. [`text`] makes
//! prompts from a seed, and [`process`] reads what the system counts for a process.
//!
//! The programs are in `src/bin`: `bench-cli` (the command line), `bench-jobs` (the queue),
//! `bench-engine` (the daemon beside llama.cpp's own loop) and `bench-server` (beside its server,
//! with the rows in `rows/`). They measure the release build of the three programs beside them,
//! from outside. Two link more: `bench-engine` llama.cpp, for that loop, and `bench-jobs` the
//! workspace's crate, which it also times by itself.
//!
//! No figure is asserted: whether something works is for the tests.
#![expect(clippy::print_stdout, reason = "a benchmark's table is its data")]

pub mod llama_server;
mod neighbour;
pub mod process;
pub mod server;
pub mod text;
pub mod work;

pub use neighbour::{Neighbour, settle};
pub use process::resident;

use std::fmt;
use std::time::{Duration, Instant};

/// Figures of one kind, from repeated runs, sorted.
#[derive(Debug, Clone, Default)]
pub struct Series(Vec<f64>);

impl Series {
    /// Adds a figure.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The median: the middle figure or the mean of the middle two; 0 if there are none.
    pub fn median(&self) -> f64 {
        let n = self.0.len();
        match n {
            0 => 0.0,
            _ => f64::midpoint(self.0[(n - 1) / 2], self.0[n / 2]),
        }
    }

    /// The smallest figure; 0 if there are none.
    pub fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or_default()
    }

    /// The largest figure; 0 if there are none.
    pub fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or_default()
    }

    /// The ratio of the two medians. The figures are sorted, so pairs cannot be compared.
    pub fn ratio(&self, other: &Self) -> f64 {
        self.median() / other.median()
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<T: IntoIterator<Item = f64>>(figures: T) -> Self {
        let mut series = Self::default();
        figures.into_iter().for_each(|figure| series.push(figure));
        series
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.median(), self.min(), self.max())
    }
}

/// Runs `work` and returns how long it took, in milliseconds, with its result.
pub fn milliseconds<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed().as_secs_f64() * 1e3, result)
}

/// A Markdown table on stdout, with the machine and its load during the measurement below it.
#[derive(Debug)]
pub struct Table {
    start: (u64, u64),
}

impl Table {
    /// Prints the heading and the column names.
    pub fn new(title: &str, columns: &[&str]) -> Self {
        println!("\n### {title}\n");
        println!("| {} |", columns.join(" | "));
        println!("|{}", "---|".repeat(columns.len()));
        Self { start: cpu_ticks() }
    }

    /// Prints a row.
    pub fn row(&self, cells: &[String]) {
        println!("| {} |", cells.join(" | "));
    }

    /// Ends the table: prints the machine and how busy its processors were.
    pub fn end(self) {
        let (busy, all) = cpu_ticks();
        let share = 100.0 * (busy - self.start.0) as f64 / (all - self.start.1).max(1) as f64;
        println!("\n{}; processors {share:.0} % busy, this program included\n", machine());
    }
}

/// Prints a remark below a table.
pub fn note(line: &str) {
    println!("- {line}");
}

fn cpu_ticks() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    let all: u64 = fields.iter().sum();
    // Idle and iowait.
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    (all - idle, all)
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let threads = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{}, {threads} threads", model.unwrap_or("unknown processor"))
}

/// The value of a flag such as `--runs 20`, or `default`.
///
/// Panics if the value is missing or not a number.
pub fn flag(name: &str, default: usize) -> usize {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    match arguments.next() {
        None => default,
        Some(_) => match arguments.next().and_then(|value| value.parse().ok()) {
            Some(value) => value,
            None => panic!("{name} needs a number"),
        },
    }
}

/// The value of a flag such as `--only TITLE`.
pub fn text_flag(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

/// Whether a flag without a value is present.
pub fn has_flag(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

/// A duration in milliseconds.
pub fn as_ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Formats a size in bytes as a table cell.
pub fn megabytes(bytes: f64) -> String {
    format!("{:.1} MB", bytes / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(Series::from_iter([3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Series::from_iter([4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(Series::default().median(), 0.0);
    }
}
