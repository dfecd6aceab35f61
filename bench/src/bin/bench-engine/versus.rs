//! The daemon beside llama.cpp's own server: same model, same machine, same compiler flags, same
//! prompts, in turn. Both have as many slots and as large a cache, and both their prompt caches,
//! which are of no use but where a table says so: no two prompts begin alike.

use std::path::Path;
use std::time::Duration;

use threadrunner_bench::{Series, Table, megabytes, resident};

use crate::daemon::Server;
use crate::llama_server::LlamaServer;
use crate::work::{Answered, Ask, Runtime, at_once, in_turn, seconds, story, tokens_per_s, words};
use crate::{Neighbour, settle};

/// Slots of both, and cells of their caches.
const SLOTS: u32 = 32;
const CONTEXT: u32 = 32_768;
/// Tokens of most answers.
const ANSWER: u32 = 128;
/// Requests that share a prefix, and the words of both parts: about 500 and 20 tokens.
const SHARING: usize = 200;
const PREFIX_WORDS: usize = 490;
const TAIL_WORDS: usize = 15;
/// How long batch work has been running when somebody comes.
const UNDER_WAY: Duration = Duration::from_secs(2);

/// What is compared, and how often.
pub(crate) struct Versus<'a> {
    pub(crate) program: &'a Path,
    pub(crate) model: &'a Path,
    pub(crate) rounds: usize,
    /// Only the table whose title has this in it.
    pub(crate) only: Option<String>,
}

/// Prints all tables.
pub(crate) fn compare(versus: &Versus<'_>) {
    let config = format!("[engine]\nsequences = {SLOTS}\ncontext = {CONTEXT}\n");
    let server = Server::start(versus.model, &config);
    let peer = LlamaServer::start(versus.program, versus.model, SLOTS, CONTEXT);
    let sides: [&dyn Runtime; 2] = [&peer, &server];
    let rates = |title: &str, clients: usize, words: usize, busy: bool| {
        versus.table(title, "tokens/s", sides, busy, |side, round| {
            let prompts: Vec<_> =
                (0..clients).map(|client| story(title, round, client, words)).collect();
            tokens_per_s(&at_once(side, &asks(&prompts, ANSWER, false)))
        });
    };
    rates("One client, 512 tokens in, 128 out", 1, 495, false);
    rates("8 clients, 128 tokens out", 8, 20, false);
    rates("32 clients, 128 tokens out", 32, 20, false);
    rates("8 clients, 128 tokens out, while one other thread is busy", 8, 20, true);
    let title = format!("{SHARING} requests, one prefix of 500 tokens, 16 out, 32 at a time");
    versus.table(&title, "requests/s", sides, false, |side, round| {
        let prefix = words(round, PREFIX_WORDS);
        let prompt = |tail| {
            format!("List {round}: {prefix}. Number {tail}: {}. And then", words(tail, TAIL_WORDS))
        };
        let prompts: Vec<_> = (0..SHARING).map(prompt).collect();
        SHARING as f64 / seconds(&in_turn(side, &asks(&prompts, 16, false), SLOTS as usize))
    });
    let title = "Edit this text, greedily";
    versus.table(title, "tokens/s", sides, false, |side, round| {
        let text = story(title, round, 0, 150);
        let prompt = format!("{text}.\n\nThe same text again:\n\n{}", &text[..text.len() / 4]);
        tokens_per_s(&at_once(side, &asks(&[prompt], ANSWER, false)))
    });
    let title = "An interactive prompt while 32 batch jobs of 256 tokens run";
    versus.table(title, "first token, ms", sides, false, |side, round| {
        let prompts: Vec<_> = (0..32).map(|client| story(title, round, client, 20)).collect();
        let batch = asks(&prompts, 256, true);
        let question = format!("Question {round}: what is a river? Answer:");
        std::thread::scope(|scope| {
            let running = scope.spawn(|| at_once(side, &batch));
            std::thread::sleep(UNDER_WAY);
            let asked = Ask { prompt: &question, answer: 8, batch: false };
            let Answered { sent, first, .. } = side.ask(&asked);
            running.join().expect("the batch ends");
            (first - sent).as_secs_f64() * 1e3
        })
    });
    drop((server, peer));
    versus.memory();
}

impl Versus<'_> {
    /// A table of one figure, measured on both sides in turn.
    fn table(
        &self,
        title: &str,
        what: &str,
        sides: [&dyn Runtime; 2],
        busy: bool,
        measure: impl Fn(&dyn Runtime, usize) -> f64,
    ) {
        if self.leaves_out(title) {
            return;
        }
        let table = Table::new(title, &["what", "llama-server", "ThreadRunner", "ratio"]);
        let neighbour = busy.then(Neighbour::start);
        let mut figures: [Series; 2] = Default::default();
        for round in 0..self.rounds {
            for (series, side) in figures.iter_mut().zip(sides) {
                settle();
                series.push(measure(side, round));
            }
        }
        drop(neighbour);
        let [theirs, ours] = figures;
        let ratio = format!("{:.3}", ours.ratio(&theirs));
        table.row(&[what.into(), theirs.to_string(), ours.to_string(), ratio]);
        table.end();
    }

    fn leaves_out(&self, title: &str) -> bool {
        self.only.as_ref().is_some_and(|only| !title.contains(only.as_str()))
    }

    /// Resident memory with 8 sequences of 2,048 tokens in the cache.
    fn memory(&self) {
        let title = "Memory with 8 sequences of 2,048 tokens";
        if self.leaves_out(title) {
            return;
        }
        let table = Table::new(title, &["what", "llama-server", "ThreadRunner", "ratio"]);
        let (slots, context) = (8, 8 * 2048);
        let prompts: Vec<_> = (0..8).map(|client| story(title, 0, client, 1970)).collect();
        let asks = asks(&prompts, 16, false);
        let peer = LlamaServer::start(self.program, self.model, slots, context);
        // One after the other: all at once, the first token of the last takes most of a minute.
        in_turn(&peer, &asks, 1);
        let theirs = resident(peer.pid());
        drop(peer);
        let config = format!("[engine]\nsequences = {slots}\ncontext = {context}\n");
        let server = Server::start(self.model, &config);
        in_turn(&server, &asks, 1);
        let ours: f64 = server.pids().into_iter().map(resident).sum();
        let ratio = format!("{:.3}", ours / theirs);
        table.row(&["resident".into(), megabytes(theirs), megabytes(ours), ratio]);
        table.end();
    }
}

fn asks(prompts: &[String], answer: u32, batch: bool) -> Vec<Ask<'_>> {
    prompts.iter().map(|prompt| Ask { prompt, answer, batch }).collect()
}
