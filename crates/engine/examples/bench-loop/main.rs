//! The floor: the same llama.cpp loop in one process, with no daemon and no socket, against which
//! ThreadRunner's layers are held.
//!
//! `bench-loop MODEL` prints one object with prompt speed, decode speed and the time to the first
//! token. `bench-loop MODEL --engine` measures this engine's backend through its trait instead.
//! `bench-loop MODEL --waiting` runs itself again and again with different ways for threads to wait
//! for each other, alone and beside a busy thread, and prints a table.
#![expect(clippy::print_stdout, reason = "a benchmark's figures are its data")]

mod options;
mod ours;
mod raw;
mod waiting;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use options::Options;

/// One forward pass after another, as both implementations offer it.
trait Loop {
    /// Reads `tokens` of the prompt into each of `sequences` (forgetting what was there), and
    /// samples one token for each.
    fn read(&mut self, sequences: usize, tokens: usize) -> Result<(), Box<dyn Error>>;

    /// Appends one token to each sequence and samples the next.
    fn step(&mut self) -> Result<(), Box<dyn Error>>;
}

/// What is done with a loop, which is lent because a context borrows its model.
type Measure<'a> = dyn FnMut(&mut dyn Loop) -> Result<(), Box<dyn Error>> + 'a;

fn main() -> ExitCode {
    let run = || -> Result<(), Box<dyn Error>> {
        let options = Options::from_arguments(std::env::args().skip(1))?;
        if options.waiting {
            return waiting::compare(&options);
        }
        let mut report = Value::Null;
        let mut measured = |tested: &mut dyn Loop| {
            report = measure(tested, &options)?;
            Ok(())
        };
        match options.engine {
            true => ours::with_loop(&options, &mut measured)?,
            false => raw::with_loop(&options, &mut measured)?,
        }
        println!("{report}");
        Ok(())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", json!({ "error": error.to_string() }));
            ExitCode::FAILURE
        }
    }
}

fn measure(tested: &mut dyn Loop, options: &Options) -> Result<Value, Box<dyn Error>> {
    // The first pass touches the weights and starts the threads.
    tested.read(1, options.prompt)?;
    let mut prompt = Vec::new();
    for _ in 0..options.repeat {
        let start = Instant::now();
        tested.read(1, options.prompt)?;
        prompt.push(start.elapsed().as_secs_f64());
    }
    let mut decode = serde_json::Map::new();
    for count in &options.sequences {
        let mut rates = Vec::new();
        for _ in 0..options.repeat {
            tested.read(*count, 16)?;
            // A while of the same work, for whatever adapts to it.
            let settled = Instant::now() + options.settle;
            while Instant::now() < settled {
                tested.step()?;
            }
            if options.settle > Duration::ZERO {
                tested.read(*count, 16)?;
            }
            let start = Instant::now();
            for _ in 0..options.generate {
                tested.step()?;
            }
            rates.push((options.generate * count) as f64 / start.elapsed().as_secs_f64());
        }
        decode.insert(count.to_string(), spread(&rates));
    }
    let per_second: Vec<f64> = prompt.iter().map(|time| options.prompt as f64 / time).collect();
    let milliseconds: Vec<f64> = prompt.iter().map(|time| time * 1e3).collect();
    Ok(json!({
        "prompt_tokens": options.prompt,
        "prompt_tokens_per_s": spread(&per_second),
        "first_token_ms": spread(&milliseconds),
        "decode_tokens_per_s": decode,
    }))
}

/// Median, least and most.
fn spread(figures: &[f64]) -> Value {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    let round = |figure: f64| (figure * 100.0).round() / 100.0;
    let at = |index: usize| round(figures.get(index).copied().unwrap_or_default());
    json!({
        "median": at(figures.len() / 2),
        "min": at(0),
        "max": at(figures.len().saturating_sub(1)),
    })
}
