//! One row of the comparison, its sides measured in strict turn.

use std::io::{self, Write};
use std::path::Path;

use threadrunner_bench::work::Answered;
use threadrunner_bench::{Neighbour, Table, settle};

use crate::bare::Bare;
use crate::side::{Peer, Side};
use crate::tell::{self, Told};

/// Work that every side does alike.
pub(crate) trait Work {
    /// What is measured. The first figure decides which configuration is the best.
    fn figures(&self) -> Vec<Figure>;

    /// Does the work. The same `seed` gives the same work; another seed gives other work.
    fn measure(&self, side: &Side, seed: u64) -> Outcome;
}

/// A quantity that is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) what: &'static str,
    pub(crate) more_is_better: bool,
}

impl Figure {
    pub(crate) const fn rate(what: &'static str) -> Self {
        Self { what, more_is_better: true }
    }

    pub(crate) const fn time(what: &'static str) -> Self {
        Self { what, more_is_better: false }
    }
}

/// The result of one measurement.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// One for each of the work's figures.
    pub(crate) figures: Vec<f64>,
    /// The peak memory of the side's processes, in MB.
    pub(crate) peak_mb: f64,
    /// Tokens in all answered prompts, and in the answers.
    pub(crate) prompt_tokens: u64,
    pub(crate) tokens: u64,
    /// Requests that got no answer.
    pub(crate) unanswered: usize,
}

impl Outcome {
    /// From the number of requests, the answers they got, and the work's own figures.
    pub(crate) fn new<'a>(
        asked: usize,
        answers: impl IntoIterator<Item = &'a Answered>,
        figures: Vec<f64>,
    ) -> Self {
        let mut outcome =
            Self { figures, peak_mb: 0.0, prompt_tokens: 0, tokens: 0, unanswered: asked };
        for answered in answers {
            outcome.prompt_tokens += answered.prompt_tokens;
            outcome.tokens += answered.tokens;
            outcome.unanswered -= 1;
        }
        outcome
    }
}

/// One side's outcomes, in the order of the rounds.
pub(crate) type Rounds = Vec<Outcome>;

/// A row: some work, and the sides that do it.
pub(crate) struct Row {
    pub(crate) title: String,
    pub(crate) work: Box<dyn Work>,
    /// The aim for each of the work's figures, and for memory.
    pub(crate) reach: Vec<&'static str>,
    /// Our `config.toml`.
    pub(crate) ours: String,
    pub(crate) peers: Vec<Peer>,
    pub(crate) bare: Option<Bare>,
    /// Whether a thread of another program keeps a processor busy meanwhile.
    pub(crate) neighbour: bool,
}

/// What to compare, and how often.
pub(crate) struct Compared<'a> {
    pub(crate) program: &'a Path,
    pub(crate) model: &'a Path,
    pub(crate) format: &'a str,
    pub(crate) rounds: usize,
    pub(crate) against: &'a str,
    pub(crate) unconfigured: bool,
    pub(crate) bare: bool,
}

impl Compared<'_> {
    /// Measures a row and prints its table.
    pub(crate) fn table(&self, row: &Row) {
        let against = |peer: &&Peer| peer.name().contains(self.against);
        let peers: Vec<_> = row.peers.iter().filter(against).collect();
        let table = Table::new(&format!("{}, {}", row.title, self.format), &tell::COLUMNS);
        let neighbour = row.neighbour.then(Neighbour::start);
        // Ours first, then the peers.
        let mut sides: Vec<Rounds> = vec![Vec::new(); 1 + peers.len()];
        for round in 0..self.rounds {
            for turn in 0..sides.len() {
                // The side that begins changes from round to round.
                let place = (round + turn) % sides.len();
                let peer = place.checked_sub(1).map(|place| peers[place]);
                sides[place].push(self.measure(row, peer, round));
            }
        }
        drop(neighbour);
        Told { row, ours: &sides[0], theirs: peers.into_iter().zip(&sides[1..]).collect() }
            .print(table);
        if let Some(bare) = row.bare.filter(|_| self.bare) {
            bare.tell(self.program, self.model);
        }
    }

    /// Measures one side, from its start to its end.
    fn measure(&self, row: &Row, peer: Option<&Peer>, round: usize) -> Outcome {
        let side = match peer {
            None if self.unconfigured => Side::ours(self.model, ""),
            None => Side::ours(self.model, &row.ours),
            Some(peer) => Side::theirs(self.program, self.model, peer),
        };
        settle();
        // Far enough apart for what the work adds to its seed.
        let mut outcome = row.work.measure(&side, (round as u64 + 1) << 32);
        outcome.peak_mb = side.peak();
        let name = peer.map_or("ThreadRunner", Peer::name);
        // A run may take an hour; show that it is getting on.
        let _ = writeln!(io::stderr(), "{}, round {round}, {name}: {outcome:.2?}", row.title);
        outcome
    }
}
