//! A night's documents: through `threadrunner batch`, and through llama-server by a client that
//! keeps several requests under way.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

use serde_json::{Value, json};
use threadrunner_bench::server::Server;
use threadrunner_bench::text::Text;
use threadrunner_bench::work::{Answered, Ask, in_turn, seconds};
use threadrunner_core::Priority;

use crate::compare::{Figure, Outcome, Work};
use crate::side::Side;

/// How many documents, their shortest and longest length in tokens, and the tokens in each answer.
pub(super) const DOCUMENTS: usize = 48;
const SHORTEST: u64 = 120;
const LONGEST: u64 = 600;
const ANSWER: u32 = 64;

pub(super) struct Documents;

impl Work for Documents {
    fn figures(&self) -> Vec<Figure> {
        vec![Figure::time("time, s")]
    }

    fn measure(&self, side: &Side, seed: u64) -> Outcome {
        let document = |number: usize| {
            let mut text = Text::new(seed + number as u64);
            let length = SHORTEST + text.below(LONGEST - SHORTEST + 1);
            let prompt = text.prose(length as usize);
            Ask { prompt, answer: ANSWER, priority: Priority::Batch }
        };
        let asks: Vec<_> = (0..DOCUMENTS).map(document).collect();
        let (time, answers) = match side.as_ours() {
            Ok(server) => batch(side, server, &asks),
            Err(peer) => {
                let answers = in_turn(side, &asks, peer.at_a_time);
                (seconds(&answers), answers)
            }
        };
        Outcome::new(asks.len(), &answers, vec![time])
    }
}

/// Runs the command. Returns the seconds from its start to its end, and the answers.
fn batch(side: &Side, server: &Server, asks: &[Ask]) -> (f64, Vec<Answered>) {
    let line = |(id, ask): (usize, &Ask)| {
        let line = json!({
            "id": id, "prompt": ask.prompt, "raw": true, "temperature": 0, "max_tokens": ask.answer,
        });
        format!("{line}\n")
    };
    let file = server.home().root().join("documents.jsonl");
    let lines: String = asks.iter().enumerate().map(line).collect();
    fs::write(&file, lines).expect("the documents can be written");
    let sent = Instant::now();
    let mut command = server
        .home()
        .threadrunner(["batch", file.to_str().expect("a path in UTF-8")])
        .stderr(Stdio::null())
        .spawn()
        .expect("threadrunner can be started");
    let mut answers = Vec::new();
    for line in BufReader::new(command.stdout.take().expect("stdout is a pipe")).lines() {
        let end = Instant::now();
        let line: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        // Read while it runs: once it has ended, its memory is no longer counted.
        side.also_counts(command.id());
        let count = |key: &str| line["usage"][key].as_u64();
        let Some((prompt_tokens, tokens)) = count("prompt_tokens").zip(count("completion_tokens"))
        else {
            continue;
        };
        answers.push(Answered { sent, pieces: Vec::new(), end, prompt_tokens, tokens });
    }
    // The answers show whether it worked.
    let _ = command.wait();
    (sent.elapsed().as_secs_f64(), answers)
}
