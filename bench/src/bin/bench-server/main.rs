//! ThreadRunner beside llama.cpp's own server, in several configurations of that, on the work that a
//! runtime for many is for: same machine, same compiler flags, same prompts, in strict turn.
//!
//! `bench-server --llama-server PROGRAM --models FOLDER [--formats Q4_K_M,Q4_0] [--rounds N]`
//!
//! - `--formats`: those of SmolLM2 (Q4_0, Q4_1, Q4_K_M, Q8_0), and `gemma`; `Q4_K_M` alone if not given.
//! - `--only TEXT`: the rows with this in their title; `--list` prints the titles.
//! - `--against TEXT`: the configurations of llama-server with this in their name (`defaults`, or
//!   their arguments).
//! - `--unconfigured`: ours with nothing configured, also where a row gives it more room.
//! - `--no-bare`: without what the bare loop reaches.
//!
//! Expects release builds of the three programs, with llama, beside it, and `llama-batched-bench`
//! beside llama-server.

mod bare;
mod compare;
mod guard;
mod rows;
mod side;
mod tell;

use std::path::PathBuf;

use threadrunner_bench::{flag, has_flag, note, text_flag};

use crate::compare::Compared;

fn main() {
    let path = |name: &str| match text_flag(name) {
        Some(path) => PathBuf::from(path),
        None => panic!("{name} is missing"),
    };
    let only = text_flag("--only").unwrap_or_default();
    let rows = || rows::all().into_iter().filter(|row| row.title.contains(&only));
    if has_flag("--list") {
        rows().for_each(|row| note(&row.title));
        return;
    }
    let (program, models) = (path("--llama-server"), path("--models"));
    for format in text_flag("--formats").as_deref().unwrap_or("Q4_K_M").split(',') {
        let file = match format {
            "gemma" => "gemma-3-270m-q4_k_m.gguf".to_owned(),
            format => format!("SmolLM2-135M-Instruct.{format}.gguf"),
        };
        let compared = Compared {
            program: &program,
            model: &models.join(file),
            format,
            rounds: flag("--rounds", 3),
            against: &text_flag("--against").unwrap_or_default(),
            unconfigured: has_flag("--unconfigured"),
            bare: !has_flag("--no-bare"),
        };
        rows().for_each(|row| compared.table(&row));
    }
}
