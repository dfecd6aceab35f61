//! What guessing the next tokens gains, and which settings change a greedy answer.

use std::path::Path;
use std::thread;
use std::time::Instant;

use serde_json::json;
use threadrunner_bench::server::{Reply, Server, exchange};
use threadrunner_bench::{Series, Table, settle};

/// The prompts of the fidelity tests, one a line.
const PROMPTS: &str = include_str!("../../../../crates/engine/tests/llama/prompts.txt");

/// Tokens of an answer when measuring rates, and when comparing answers.
const ANSWER: u32 = 128;
const COMPARED: u32 = 32;
/// How many requests run at once.
const TOGETHER: usize = 8;

/// How to ask.
#[derive(Clone, Copy)]
struct Manner {
    /// Without the chat template.
    raw: bool,
    /// `None` leaves it out, so that the defaults sample.
    temperature: Option<f64>,
    answer: u32,
}

const GREEDY: Manner = Manner { raw: false, temperature: Some(0.0), answer: ANSWER };

fn ask(server: &Server, prompt: &str, manner: Manner) -> Reply {
    let request = json!({
        "v": 1, "prompt": prompt, "raw": manner.raw, "temperature": manner.temperature,
        "max_tokens": manner.answer,
    });
    exchange(&mut server.connect(), &request)
}

/// A prompt with a text and the start of a copy in which one word differs.
fn edit(round: usize) -> String {
    const NAMES: [&str; 6] = ["Anna", "Bruno", "Clara", "David", "Elena", "Felix"];
    let (old, new) = (NAMES[round % 6], NAMES[(round + 1) % 6]);
    let text = format!(
        "{old} lives in a small house at the end of the road. Every morning {old} walks to the \
         market and buys bread, apples and a newspaper. On the way back {old} stops at the bridge \
         and looks at the boats. In the afternoon {old} works in the garden, waters the roses and \
         talks to the neighbours. When it rains, {old} stays inside and writes letters to old \
         friends. At night {old} reads for an hour and then turns off the light."
    );
    format!(
        "The text:\n{text}\n\nThe same text once more:\n{text}\n\nThe same text, but with the name \
         {new} instead of {old}:\n{new} lives in a small house"
    )
}

/// Compares rates with and without guessing, in turn.
pub(crate) fn compare(model: &Path, rounds: usize, wanted: impl Fn(&str) -> bool) {
    let without = || Server::start(model, "[engine]\nspeculation = false\nprefix_cache = false\n");
    let usual = || Server::start(model, "[engine]\nprefix_cache = false\n");
    let greedily =
        || Server::start(model, "[engine]\nspeculation_greedy = true\nprefix_cache = false\n");
    let chat = |round: usize| PROMPTS.lines().nth(round * 7 % 100).unwrap_or_default().to_owned();
    let repetitive = Manner { raw: true, ..GREEDY };
    for (title, with, manner, prompt) in [
        (
            "A repetitive task (edit this text), greedy, `speculation_greedy`",
            &greedily as &dyn Fn() -> Server,
            repetitive,
            &edit as &dyn Fn(usize) -> String,
        ),
        (
            "A repetitive task (edit this text), sampled",
            &usual,
            Manner { temperature: None, ..repetitive },
            &edit,
        ),
        ("Ordinary questions, greedy, `speculation_greedy`", &greedily, GREEDY, &chat),
        ("Ordinary questions, sampled", &usual, Manner { temperature: None, ..GREEDY }, &chat),
    ] {
        if !wanted(title) {
            continue;
        }
        let servers = [without(), with()];
        let table = Table::new(title, &["what", "without guessing", "guessing", "ratio"]);
        let mut rates: [Series; 2] = Default::default();
        let (mut drafted, mut accepted, mut tokens, mut others) = (0, 0, 0, 0);
        for round in 0..rounds {
            let mut texts = Vec::new();
            for (server, rate) in servers.iter().zip(&mut rates) {
                settle();
                let answer = ask(server, &prompt(round), manner);
                // An answer that ends at once says nothing about the rate.
                if answer.tokens() >= u64::from(ANSWER / 4) {
                    let seconds = (answer.last() - answer.first()).as_secs_f64();
                    rate.push((answer.tokens() - 1) as f64 / seconds);
                }
                drafted += answer.count("timings", "drafted");
                accepted += answer.count("timings", "accepted");
                tokens += answer.tokens();
                texts.push(answer.text);
            }
            others += usize::from(texts[0] != texts[1]);
        }
        let [without, with] = &rates;
        let ratio = format!("{:.3}", with.ratio(without));
        table.row(&["tokens/s".into(), without.to_string(), with.to_string(), ratio]);
        let row = |what: &str, figure: String| {
            table.row(&[what.into(), "".into(), figure, "".into()]);
        };
        row("guesses for each token of the answer", per(2 * drafted, tokens));
        row("of the guesses right", per(accepted, drafted));
        if manner.temperature.is_some() {
            row("answers that differ", format!("{others} of {rounds}"));
        }
        table.end();
    }
}

fn per(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        whole => format!("{:.2}", part as f64 / whole as f64),
    }
}

/// Counts how many greedy answers change with the settings and with other requests, and measures
/// what `deterministic`, which keeps them the same, costs.
pub(crate) fn sameness(model: &Path, rounds: usize) {
    let prompts: Vec<&str> = PROMPTS.lines().step_by(2).collect();
    let manner = Manner { answer: COMPARED, ..GREEDY };
    let together = |server: &Server| -> (Vec<String>, f64) {
        let (mut texts, mut tokens) = (Vec::new(), 0);
        let start = Instant::now();
        for eight in prompts.chunks(TOGETHER) {
            let answers: Vec<Reply> = thread::scope(|scope| {
                let asked: Vec<_> = eight
                    .iter()
                    .map(|prompt| scope.spawn(move || ask(server, prompt, manner)))
                    .collect();
                asked.into_iter().map(|one| one.join().expect("an answer")).collect()
            });
            tokens += answers.iter().map(Reply::tokens).sum::<u64>();
            texts.extend(answers.into_iter().map(|answer| answer.text));
        }
        (texts, tokens as f64 / start.elapsed().as_secs_f64())
    };
    let alone = |server: &Server| -> Vec<String> {
        prompts.iter().map(|prompt| ask(server, prompt, manner).text).collect()
    };
    let deterministic = Server::start(model, "[engine]\ndeterministic = true\n");
    let reference = alone(&deterministic);
    let table = Table::new(
        &format!("{} greedy answers, compared with `deterministic` alone", prompts.len()),
        &["how", "differ"],
    );
    let count = |how: &str, texts: &[String]| {
        let others = texts.iter().zip(&reference).filter(|(one, other)| one != other).count();
        table.row(&[how.into(), format!("{others} of {}", texts.len())]);
    };
    count("`deterministic`, eight at once", &together(&deterministic).0);
    let uncached = Server::start(model, "[engine]\nprefix_cache = false\n");
    count("one after another, `prefix_cache = false`", &alone(&uncached));
    count("eight at once, `prefix_cache = false`", &together(&uncached).0);
    drop(uncached);
    let usual = Server::start(model, "");
    count("one after another, nothing configured", &alone(&usual));
    let greedily =
        Server::start(model, "[engine]\nprefix_cache = false\nspeculation_greedy = true\n");
    count("one after another, `prefix_cache = false`, `speculation_greedy`", &alone(&greedily));
    drop(greedily);
    table.end();

    let title = "Eight at once, nothing configured against `deterministic`";
    let table = Table::new(title, &["what", "nothing configured", "`deterministic`", "ratio"]);
    let (mut rates, mut slow): (Series, Series) = Default::default();
    for _ in 0..rounds {
        rates.push(together(&usual).1);
        slow.push(together(&deterministic).1);
    }
    let ratio = format!("{:.3}", slow.ratio(&rates));
    table.row(&["tokens/s, prompts included".into(), rates.to_string(), slow.to_string(), ratio]);
    table.end();
}
