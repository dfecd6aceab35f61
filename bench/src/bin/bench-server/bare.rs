//! What the bare loop reaches: the limit of anything around it.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use threadrunner_bench::note;

/// What `llama-batched-bench` is asked, and how much of it a row's work is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bare {
    pub(crate) prompt: usize,
    pub(crate) answer: u32,
    pub(crate) at_once: usize,
    /// Requests of the row: its loop is run so often.
    pub(crate) requests: usize,
}

impl Bare {
    /// Measures it with both layouts of the cache, and says so below the row's table.
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
            // All tokens as quick as those of prompts.
            let along =
                told("generating along with reading", figure("n_kv") / figure("speed_pp") * times);
            // A single sequence has nothing to ride along with, nor have many that hardly read.
            let rides = self.at_once > 1 && self.prompt > self.answer as usize;
            let along = if rides { format!("; {along}") } else { String::new() };
            let (reads, generates) = (figure("speed_pp"), figure("speed_tg"));
            note(&format!(
                "the bare loop, {layout}: reads {reads:.0} and generates {generates:.0} tokens/s; {in_turn}{along}"
            ));
        }
    }

    fn run(self, program: &Path, model: &Path, unified: bool) -> Value {
        // Each sequence's part is rounded up to 256 cells by llama.cpp.
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
