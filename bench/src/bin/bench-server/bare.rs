//! What the bare loop of `llama-batched-bench` reaches: the limit for anything built around it.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use threadrunner_bench::note;

/// A row's work, as `llama-batched-bench` takes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bare {
    pub(crate) prompt: usize,
    pub(crate) answer: u32,
    pub(crate) at_once: usize,
    /// Requests in the row; the bench's figures are scaled to as many.
    pub(crate) requests: usize,
}

impl Bare {
    /// Measures it with both layouts of the cache and prints the figures below the row's table.
    pub(crate) fn tell(self, llama_server: &Path, model: &Path) {
        let program = llama_server.with_file_name("llama-batched-bench");
        for (layout, unified) in
            [("a stream for each sequence", false), ("one unified cache", true)]
        {
            let measured = self.run(&program, model, unified);
            let figure = |key: &str| measured[key].as_f64().unwrap_or(f64::NAN);
            let times = self.requests as f64 / self.at_once as f64;
            let out = self.requests as f64 * f64::from(self.answer);
            let told =
                |how: &str, time: f64| format!("{how} {time:.2} s, {:.1} tokens/s out", out / time);
            let in_turn = told("reading and generating in turn", figure("t") * times);
            // As if every token were computed as fast as a prompt's.
            let along =
                told("generating along with reading", figure("n_kv") / figure("speed_pp") * times);
            // A single sequence has nothing to ride along with, and sequences that read little gain
            // nothing.
            let rides = self.at_once > 1 && self.prompt > self.answer as usize;
            let along = if rides { format!("; {along}") } else { String::new() };
            let (reads, generates) = (figure("speed_pp"), figure("speed_tg"));
            note(&format!(
                "the bare loop, {layout}: reads {reads:.0} and generates {generates:.0} tokens/s; {in_turn}{along}"
            ));
        }
    }

    fn run(self, program: &Path, model: &Path, unified: bool) -> Value {
        // llama.cpp rounds each sequence's part up to a multiple of 256 cells.
        let cells = (self.prompt + self.answer as usize).next_multiple_of(256) * self.at_once;
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let output = Command::new(program)
            .arg("--model")
            .arg(model)
            .args(["-npp", &self.prompt.to_string(), "-ntg", &self.answer.to_string()])
            .args(["-npl", &self.at_once.to_string(), "--ctx-size", &cells.to_string()])
            .args(["--threads", &threads.to_string(), "--output-format", "jsonl"])
            .args(unified.then_some("--kv-unified"))
            .stdin(Stdio::null())
            .output()
            .expect("llama-batched-bench starts");
        let stdout = String::from_utf8_lossy(&output.stdout);
        let line = stdout.lines().find(|line| line.starts_with('{'));
        let line = line.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        serde_json::from_str(line).expect("a line of JSON")
    }
}
