//! One row of the comparison: measured in strict turn, told as a table.

use std::io::Write;
use std::path::Path;

use threadrunner_bench::work::Answered;
use threadrunner_bench::{Neighbour, Series, Table, note, settle};

use crate::bare::Bare;
use crate::side::{Peer, Side};

/// Something to do that each side does alike.
pub(crate) trait Work {
    /// What is measured of it, the one that says which configuration is best first.
    fn figures(&self) -> Vec<Figure>;

    /// Has it done. The same `seed` is the same work, and another is other work.
    fn measure(&self, side: &Side, seed: u64) -> Outcome;
}

/// Something that is measured.
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

/// Figures that every row has, after its own.
const ALSO: [Figure; 4] = [
    Figure::time("resident memory, the most, MB"),
    Figure::rate("tokens read, those of the cache too"),
    Figure::rate("tokens generated"),
    Figure::time("requests without an answer"),
];
const UNANSWERED: usize = 3;

/// What came of a measurement.
pub(crate) struct Outcome {
    figures: Vec<f64>,
    tokens: [u64; 2],
    unanswered: usize,
}

impl Outcome {
    /// Of so many requests, those that were answered, and the work's own figures.
    pub(crate) fn new<'a>(
        asked: usize,
        answers: impl IntoIterator<Item = &'a Answered>,
        figures: Vec<f64>,
    ) -> Self {
        let mut outcome = Self { figures, tokens: [0; 2], unanswered: asked };
        for answered in answers {
            outcome.tokens[0] += answered.prompt_tokens;
            outcome.tokens[1] += answered.tokens;
            outcome.unanswered -= 1;
        }
        outcome
    }
}

/// A row: some work, and who does it how.
pub(crate) struct Row {
    pub(crate) title: String,
    pub(crate) work: Box<dyn Work>,
    /// What each of the work's figures is to reach, and its memory.
    pub(crate) reach: Vec<&'static str>,
    /// `config.toml` of ours.
    pub(crate) ours: String,
    pub(crate) peers: Vec<Peer>,
    pub(crate) bare: Option<Bare>,
    /// Whether a thread of another program is busy meanwhile.
    pub(crate) neighbour: bool,
}

/// What is compared, and how often.
pub(crate) struct Compared<'a> {
    pub(crate) program: &'a Path,
    pub(crate) model: &'a Path,
    pub(crate) format: &'a str,
    pub(crate) rounds: usize,
    pub(crate) against: &'a str,
    pub(crate) unconfigured: bool,
    pub(crate) bare: bool,
}

/// Figures in the order of rounds, of one side.
type Rounds = Vec<Vec<f64>>;

impl Compared<'_> {
    /// Measures a row and prints its table.
    pub(crate) fn table(&self, row: &Row) {
        let against = |peer: &&Peer| peer.name().contains(self.against);
        let peers: Vec<_> = row.peers.iter().filter(against).collect();
        let columns = [
            "what",
            "to reach",
            "ThreadRunner",
            "llama-server's best",
            "ratio",
            "its defaults",
            "ratio",
        ];
        let table = Table::new(&format!("{}, {}", row.title, self.format), &columns);
        let neighbour = row.neighbour.then(Neighbour::start);
        // Ours, then the peers'.
        let mut sides: Vec<Rounds> = vec![Vec::new(); 1 + peers.len()];
        for round in 0..self.rounds {
            for turn in 0..sides.len() {
                // Each begins once.
                let place = (round + turn) % sides.len();
                let figures =
                    self.measure(row, place.checked_sub(1).map(|peer| peers[peer]), round);
                sides[place].push(figures);
            }
        }
        drop(neighbour);
        let [ours, theirs @ ..] = sides.as_slice() else { return };
        let figures: Vec<_> = row.work.figures().into_iter().chain(ALSO).collect();
        let own = figures.len() - ALSO.len();
        for (index, figure) in figures.iter().enumerate() {
            if index == own + UNANSWERED && column(ours, index).max() == 0.0 {
                continue;
            }
            // What is no aim of its own is told of the configuration that does the work best.
            let by = if index < own { index } else { 0 };
            let best = best(theirs, by, figures[by].more_is_better, own + UNANSWERED);
            let defaults = peers.iter().position(|peer| peer.arguments.is_empty());
            let told = |peer: Option<usize>, name: bool| match peer {
                None => [String::new(), String::new()],
                Some(peer) => {
                    let figure = column(&theirs[peer], index).to_string();
                    let name =
                        if name { format!(", `{}`", peers[peer].name()) } else { String::new() };
                    [figure + &name, ratios(ours, &theirs[peer], index)]
                }
            };
            let reach = row.reach.get(index).copied().unwrap_or_default();
            let ours = column(ours, index).to_string();
            let [of_best, of_defaults] = [told(best, true), told(defaults, false)];
            table.row(
                &[&[figure.what.into(), reach.into(), ours], &of_best[..], &of_defaults].concat(),
            );
        }
        table.end();
        for (peer, rounds) in peers.iter().zip(theirs) {
            let figures: Vec<_> = figures
                .iter()
                .enumerate()
                .map(|(index, figure)| {
                    format!("{} {:.2}", figure.what, column(rounds, index).median())
                })
                .collect();
            note(&format!("`{}`: {}", peer.name(), figures.join("; ")));
        }
        if let Some(bare) = row.bare.filter(|_| self.bare) {
            bare.tell(self.program, self.model);
        }
    }

    /// One side, from its start to its end.
    fn measure(&self, row: &Row, peer: Option<&Peer>, round: usize) -> Vec<f64> {
        let side = match peer {
            None if self.unconfigured => Side::ours(self.model, ""),
            None => Side::ours(self.model, &row.ours),
            Some(peer) => Side::theirs(self.program, self.model, peer),
        };
        settle();
        let Outcome { mut figures, tokens, unanswered } = row.work.measure(&side, seed(round));
        figures.extend([side.peak(), tokens[0] as f64, tokens[1] as f64, unanswered as f64]);
        let name = peer.map_or("ThreadRunner", Peer::name);
        // Whoever waits for an hour wants to see that something happens.
        let _ = writeln!(std::io::stderr(), "{}, round {round}, {name}: {figures:.2?}", row.title);
        figures
    }
}

/// Far enough apart for what a work adds to it.
fn seed(round: usize) -> u64 {
    (round as u64 + 1) << 32
}

/// The peer with the best median, of those that answered everything.
fn best(peers: &[Rounds], index: usize, more_is_better: bool, unanswered: usize) -> Option<usize> {
    let median = |peer: &usize| column(&peers[*peer], index).median();
    (0..peers.len()).filter(|peer| column(&peers[*peer], unanswered).max() == 0.0).max_by(
        |one, other| match more_is_better {
            true => median(one).total_cmp(&median(other)),
            false => median(other).total_cmp(&median(one)),
        },
    )
}

fn column(rounds: &Rounds, index: usize) -> Series {
    rounds.iter().map(|figures| figures[index]).collect()
}

/// Ours to theirs, in each round.
fn ratios(ours: &Rounds, theirs: &Rounds, index: usize) -> String {
    let ratios: Series =
        ours.iter().zip(theirs).map(|(ours, theirs)| ours[index] / theirs[index]).collect();
    format!("{:.3} ({:.3} to {:.3})", ratios.median(), ratios.min(), ratios.max())
}
