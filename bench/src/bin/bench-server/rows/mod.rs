//! The rows: what is measured, and with which configurations.
//!
//! llama-server runs with its defaults, and with slots fitted to the row and as much context as the
//! row needs, unified and not. Ours has nothing configured, except if a row needs more sequences or
//! cells than the defaults have room for: then it gets as many as llama-server.

mod clients;
mod documents;
mod edit;
mod hour;
mod interactive;
mod prefix;
mod stream;

use self::clients::{Clients, One};
use self::documents::Documents;
use self::edit::Edit;
use self::hour::Hour;
use self::interactive::Interactive;
use self::prefix::Prefix;
use self::stream::Stream;
use crate::bare::Bare;
use crate::compare::{Row, Work};
use crate::side::Peer;

/// All rows, in the order of the tables.
pub(crate) fn all() -> Vec<Row> {
    [aims(), earlier()].into_iter().flatten().collect()
}

/// The rows that have aims.
fn aims() -> Vec<Row> {
    let mut rows = vec![
        row("48 documents of 120 to 600 tokens, 64 out, by `batch`", Documents)
            .reach(&["<= 0.92; defaults: <= 0.8"])
            .fitted(8, 8_192)
            .fitted(16, 12_288)
            .fitted(32, 24_576)
            .bare(360, 64, 8, documents::DOCUMENTS),
        clients(32, 380, 96).reach(&[">= 1.1", "<= 0.9"]).room(32, 32_768),
        clients(8, 380, 96).reach(&[">= 1.1", "<= 1.0"]).fitted(8, 8_192),
        clients(8, 2_000, 64).reach(&[">= 1.1"]).room(8, 17_408),
        clients(64, 15, 96).reach(&[">= 1.1"]).room(64, 16_384),
        clients(32, 15, 96).reach(&[">= 1.03"]).room(32, 8_192),
    ];
    let ones = [15, 380].map(|prompt| one(prompt, 96).reach(&[">= 0.99", "<= 1.01"]));
    rows.extend(ones.map(|row| row.peer("-np 1 -c 2048")));
    rows.extend([
        row(
            "120 questions behind one prefix of 300 tokens, 16 out, 32 at a time",
            Prefix { requests: 120, prefix: 300, question: 15, answer: 16, at_a_time: 32 },
        )
        .reach(&[">= 4"])
        .fitted(8, 4_096)
        .fitted(32, 16_384),
        row(
            "An interactive prompt behind 32 batch jobs of 2,000 tokens",
            Interactive { jobs: 32, prompt: 2_000, answer: 16 },
        )
        .reach(&["<= 0.05, and <= 400 ms"])
        // A slot is free for it.
        .fitted(33, 33 * 2_304),
        row(
            "A stream while another's prompt of 3,000 tokens is read",
            Stream { long: 3_000, answer: 16 },
        )
        .reach(&["<= 250 ms", "<= 1.1"])
        .fitted(2, 8_192)
        // Smaller chunks are llama-server's only means against long gaps.
        .peer("-np 2 -c 8192 -b 128 -ub 128"),
        row("A mixed hour, scaled to a minute", Hour)
            .reach(&[&["<= 0.9"][..], &["<= 0.7", "<= 1.0"].repeat(4)].concat())
            .fitted(8, 32_768)
            .peer("-np 16 -c 32768 --kv-unified"),
    ]);
    rows
}

/// The rows of the earlier tables.
fn earlier() -> Vec<Row> {
    let (slots, cells) = (32, 32_768);
    let shared = Prefix { requests: 200, prefix: 490, question: 20, answer: 16, at_a_time: 32 };
    let batch = Interactive { jobs: 32, prompt: 40, answer: 256 };
    let mut rows = vec![
        one(512, 128),
        clients(8, 40, 128),
        clients(32, 40, 128),
        clients(8, 40, 128),
        row("200 requests, one prefix of 490 tokens, 16 out, 32 at a time", shared),
        row("Edit this text, greedily", Edit),
        row("An interactive prompt behind 32 batch jobs of 256 tokens out", batch),
    ];
    rows[3].title += ", while one other thread is busy";
    rows[3].neighbour = true;
    rows.into_iter().map(|row| row.room(slots, cells)).collect()
}

fn clients(clients: usize, prompt: usize, answer: u32) -> Row {
    let title = format!("{clients} clients, {prompt} in, {answer} out");
    row(title, Clients { clients, prompt, answer }).bare(prompt, answer, clients, clients)
}

fn one(prompt: usize, answer: u32) -> Row {
    let title = format!("One client, {prompt} in, {answer} out");
    row(title, One { prompt, answer }).bare(prompt, answer, 1, 1)
}

/// Some work, for ours and for llama-server with its defaults.
fn row(title: impl Into<String>, work: impl Work + 'static) -> Row {
    Row {
        title: title.into(),
        work: Box::new(work),
        reach: Vec::new(),
        ours: String::new(),
        peers: vec![Peer { arguments: String::new(), at_a_time: 8 }],
        bare: None,
        neighbour: false,
    }
}

impl Row {
    fn reach(mut self, aims: &[&'static str]) -> Self {
        self.reach = aims.to_vec();
        // Memory is the first of the figures that every row has.
        self.reach.resize(self.work.figures().len(), "");
        self.reach.push("<= 1.0");
        self
    }

    /// Adds llama-server with this many slots and cells, with a part of the cells for each slot and
    /// with all cells shared.
    fn fitted(self, slots: usize, cells: usize) -> Self {
        let arguments = format!("-np {slots} -c {cells}");
        self.with(&arguments, slots).with(&format!("{arguments} --kv-unified"), slots)
    }

    /// Gives llama-server this much room, and ours as much.
    fn room(mut self, sequences: usize, context: usize) -> Self {
        self.ours = format!("[engine]\nsequences = {sequences}\ncontext = {context}\n");
        self.fitted(sequences, context)
    }

    /// Adds llama-server with these arguments.
    fn peer(self, arguments: &str) -> Self {
        self.with(arguments, 8)
    }

    fn with(mut self, arguments: &str, at_a_time: usize) -> Self {
        self.peers.push(Peer { arguments: arguments.to_owned(), at_a_time });
        self
    }

    fn bare(mut self, prompt: usize, answer: u32, at_once: usize, requests: usize) -> Self {
        self.bare = Some(Bare { prompt, answer, at_once, requests });
        self
    }
}
