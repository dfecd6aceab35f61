//! Prints a row's outcomes as a table.

use threadrunner_bench::{Series, Table, note};

use crate::compare::{Figure, Outcome, Rounds, Row};
use crate::side::Peer;

pub(crate) const COLUMNS: [&str; 7] =
    ["what", "to reach", "ThreadRunner", "llama-server's best", "ratio", "its defaults", "ratio"];

/// The outcomes of all sides.
pub(crate) struct Told<'a> {
    pub(crate) row: &'a Row,
    pub(crate) ours: &'a Rounds,
    pub(crate) theirs: Vec<(&'a Peer, &'a Rounds)>,
}

/// A peer and its outcomes, if there is one.
type Other<'a> = Option<(&'a Peer, &'a Rounds)>;

impl Told<'_> {
    /// Prints the table, and below it each configuration's medians.
    pub(crate) fn print(&self, table: Table) {
        let figures = self.row.work.figures();
        let defaults = self.theirs.iter().find(|(peer, _)| peer.arguments.is_empty()).copied();
        for (index, figure) in figures.iter().enumerate() {
            let best = self.best(index, figure);
            self.line(&table, figure.what, index, [best, defaults], |one| one.figures[index]);
        }
        // The remaining lines are about the configuration that does the work best.
        let sides = [self.best(0, &figures[0]), defaults];
        self.line(&table, "resident memory, the most, MB", figures.len(), sides, |one| one.peak_mb);
        let count = |what, of: fn(&Outcome) -> f64| self.line(&table, what, usize::MAX, sides, of);
        count("tokens read, cached ones too", |one| one.prompt_tokens as f64);
        count("tokens generated", |one| one.tokens as f64);
        let mut shown = sides.into_iter().flatten().map(|(_, rounds)| rounds).chain([self.ours]);
        if shown.any(|rounds| unanswered(rounds) > 0) {
            count("requests without an answer", |one| one.unanswered as f64);
        }
        table.end();
        for (peer, rounds) in &self.theirs {
            let median = |(index, figure): (usize, &Figure)| {
                format!("{}: {:.2}", figure.what, series(rounds, |one| one.figures[index]).median())
            };
            let medians: Vec<_> = figures.iter().enumerate().map(median).collect();
            let memory = series(rounds, |one| one.peak_mb).median();
            let without = match unanswered(rounds) {
                0 => String::new(),
                count => format!("; {count} requests without an answer"),
            };
            note(&format!("`{}`: {}; {memory:.0} MB{without}", peer.name(), medians.join("; ")));
        }
    }

    fn line(
        &self,
        table: &Table,
        what: &str,
        aim: usize,
        [best, defaults]: [Other<'_>; 2],
        value: impl Fn(&Outcome) -> f64,
    ) {
        let reach = self.row.reach.get(aim).copied().unwrap_or_default();
        let cells = |other: Other<'_>| match other {
            None => [String::new(), String::new()],
            Some((_, theirs)) => {
                [series(theirs, &value).to_string(), ratios(self.ours, theirs, &value)]
            }
        };
        let [mut best_cells, defaults] = [best, defaults].map(cells);
        if let Some((peer, _)) = best {
            best_cells[0] += &format!(", `{}`", peer.name());
        }
        let ours = [what.to_owned(), reach.to_owned(), series(self.ours, &value).to_string()];
        table.row(&[&ours[..], &best_cells, &defaults].concat());
    }

    /// The peer with the best median among those that answered everything.
    fn best(&self, index: usize, figure: &Figure) -> Other<'_> {
        let score = |rounds: &Rounds| {
            let median = series(rounds, |one| one.figures[index]).median();
            if figure.more_is_better { median } else { -median }
        };
        let whole = self.theirs.iter().filter(|(_, rounds)| unanswered(rounds) == 0).copied();
        whole.max_by(|(_, one), (_, other)| score(one).total_cmp(&score(other)))
    }
}

fn series(rounds: &Rounds, value: impl Fn(&Outcome) -> f64) -> Series {
    rounds.iter().map(value).collect()
}

/// The ratio of ours to theirs, round by round.
fn ratios(ours: &Rounds, theirs: &Rounds, value: impl Fn(&Outcome) -> f64) -> String {
    let ratios: Series =
        ours.iter().zip(theirs).map(|(ours, theirs)| value(ours) / value(theirs)).collect();
    format!("{:.3} ({:.3} to {:.3})", ratios.median(), ratios.min(), ratios.max())
}

fn unanswered(rounds: &Rounds) -> usize {
    rounds.iter().map(|outcome| outcome.unanswered).sum()
}
