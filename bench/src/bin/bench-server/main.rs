//! Compares ThreadRunner with llama.cpp's own server, in several configurations, on the work of a
//! runtime with many clients: same machine, compiler flags and prompts, in strict turn.
//!
//! `bench-server --llama-server PROGRAM --models FOLDER [--formats Q4_K_M,Q4_0] [--rounds N]`
//!
//! - `--formats`: formats of SmolLM2 (Q4_0, Q4_1, Q4_K_M, Q8_0), or `gemma`; by default Q4_K_M.
//! - `--only TEXT`: only rows whose title contains this; `--list` prints the titles.
//! - `--against TEXT`: only configurations of llama-server whose name (`defaults`, or their
//!   arguments) contains this.
//! - `--unconfigured`: configure nothing of ours, even for rows that would get more room.
//! - `--no-bare`: leave out what the bare loop reaches.
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
