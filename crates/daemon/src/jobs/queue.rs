//! Which queued job goes next: a value that is asked and never waits.

mod class;
mod line;

use std::collections::{HashMap, VecDeque};

use threadrunner_core::{JobId, ModelRef, Priority};

use class::Class;
pub(crate) use class::Ticket;

/// How many times a class may be passed over before it goes first anyway. An overnight batch moves
/// on under a stream of interactive prompts, and those wait for one job at most.
const PATIENCE: usize = 8;

/// The number of classes, in the order of [`class_of`]: interactive, normal, batch.
const CLASSES: usize = 3;

/// Queued jobs, by model and priority. Within both, tags take turns, and the jobs of one tag go in
/// order of arrival.
///
/// An entry is an id and a number. Prompts stay on disk, so 100,000 queued jobs take a few
/// megabytes. No operation goes through all jobs of a model.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    models: HashMap<ModelRef, Waiting>,
    /// Models in the order in which they got their first waiting job.
    turn: VecDeque<ModelRef>,
    len: usize,
    changed: bool,
}

/// Which jobs a job takes turns with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lane<'a> {
    pub(crate) model: &'a ModelRef,
    pub(crate) priority: Priority,
    /// All jobs without a tag take turns with the tags as if they had one in common.
    pub(crate) tag: Option<&'a str>,
}

/// The waiting jobs of one model.
#[derive(Debug, Default)]
struct Waiting {
    classes: [Class; CLASSES],
    passed_over: [usize; CLASSES],
}

fn class_of(priority: Priority) -> usize {
    match priority {
        Priority::Interactive => 0,
        Priority::Normal => 1,
        Priority::Batch => 2,
    }
}

impl Queue {
    /// The number of queued jobs.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts a job behind the others of its tag. The ticket finds it again.
    pub(crate) fn push(&mut self, id: JobId, lane: Lane<'_>) -> Ticket {
        self.class(lane).push(id, lane.tag.unwrap_or_default())
    }

    /// Puts a job that had its turn but could not use it before all others of its priority.
    pub(crate) fn put_back(&mut self, id: JobId, lane: Lane<'_>) -> Ticket {
        self.class(lane).put_back(id)
    }

    /// Whether any places have changed since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The class to put a job into. Counts the job as queued.
    fn class(&mut self, lane: Lane<'_>) -> &mut Class {
        self.changed = true;
        self.len += 1;
        if !self.models.contains_key(lane.model) {
            self.turn.push_back(lane.model.clone());
        }
        let waiting = self.models.entry(lane.model.clone()).or_default();
        &mut waiting.classes[class_of(lane.priority)]
    }

    /// Models with queued jobs, the longest wait first.
    pub(crate) fn models(&self) -> impl Iterator<Item = &ModelRef> {
        self.turn.iter()
    }

    /// Whether a job waits for this model.
    pub(crate) fn waits(&self, model: &ModelRef) -> bool {
        self.models.contains_key(model)
    }

    /// Whether an interactive job waits for this model.
    pub(crate) fn interactive_waits(&self, model: &ModelRef) -> bool {
        self.models.get(model).is_some_and(|waiting| waiting.classes[0].len() > 0)
    }

    /// Takes the next job of this model; with `interactive_only`, only an interactive one.
    pub(crate) fn pop(&mut self, model: &ModelRef, interactive_only: bool) -> Option<JobId> {
        let waiting = self.models.get_mut(model)?;
        let id = if interactive_only { waiting.classes[0].pop()? } else { waiting.pop()? };
        self.removed(model);
        Some(id)
    }

    /// Takes a job out of the queue. Returns false if it is not there.
    pub(crate) fn remove(&mut self, lane: Lane<'_>, ticket: Ticket) -> bool {
        let Some(waiting) = self.models.get_mut(lane.model) else { return false };
        let class = &mut waiting.classes[class_of(lane.priority)];
        let found = class.remove(lane.tag.unwrap_or_default(), ticket).is_some();
        if found {
            self.removed(lane.model);
        }
        found
    }

    fn removed(&mut self, model: &ModelRef) {
        self.len -= 1;
        self.changed = true;
        if self.models.get(model).is_some_and(|waiting| waiting.counts() == [0; CLASSES]) {
            self.models.remove(model);
            self.turn.retain(|other| other != model);
        }
    }

    /// A job's place among those of its model, from 1: one more than the number of jobs that go
    /// before it if none are added or removed meanwhile.
    pub(crate) fn place(&self, lane: Lane<'_>, ticket: Ticket) -> Option<u32> {
        let waiting = self.models.get(lane.model)?;
        let class = class_of(lane.priority);
        let rank = waiting.classes[class].rank(lane.tag.unwrap_or_default(), ticket)?;
        u32::try_from(waiting.before(class, rank) + 1).ok()
    }
}

impl Waiting {
    fn counts(&self) -> [usize; CLASSES] {
        std::array::from_fn(|class| self.classes[class].len())
    }

    fn pop(&mut self) -> Option<JobId> {
        let counts = self.counts();
        let (next, _) = next_class(counts, self.passed_over)?;
        pass_over(counts, &mut self.passed_over, next, 1);
        self.classes[next].pop()
    }

    /// How many jobs go before the one at `rank` in its class, from 0.
    fn before(&self, class: usize, mut rank: usize) -> usize {
        let (mut counts, mut passed_over) = (self.counts(), self.passed_over);
        let mut before = 0;
        while let Some((next, impatient)) = next_class(counts, passed_over) {
            let lower: Vec<usize> = (next + 1..CLASSES).filter(|&c| counts[c] > 0).collect();
            if !impatient && lower.iter().all(|&c| passed_over[c] == 0) {
                // From here on every round is the same: PATIENCE jobs of this class, then one of
                // each lower class.
                let of_the_job = if class == next { PATIENCE } else { 1 };
                let rounds = lower.iter().map(|&c| counts[c]).min().unwrap_or(0);
                let rounds = rounds.min(counts[next] / PATIENCE).min(rank / of_the_job);
                if rounds > 0 {
                    counts[next] -= rounds * PATIENCE;
                    lower.iter().for_each(|&c| counts[c] -= rounds);
                    rank -= rounds * of_the_job;
                    before += rounds * (PATIENCE + lower.len());
                    continue;
                }
            }
            let until_impatience =
                lower.iter().map(|&c| PATIENCE - passed_over[c].min(PATIENCE)).min();
            let run = match until_impatience {
                Some(_) if impatient => 1,
                Some(most) => most.min(counts[next]),
                None if impatient => 1,
                None => counts[next],
            };
            if next == class {
                if rank < run {
                    return before + rank;
                }
                rank -= run;
            }
            before += run;
            pass_over(counts, &mut passed_over, next, run);
            counts[next] -= run;
        }
        before
    }
}

/// The class that goes next, and whether that is because it was passed over too often.
fn next_class(counts: [usize; CLASSES], passed_over: [usize; CLASSES]) -> Option<(usize, bool)> {
    let mut waits = (0..CLASSES).filter(|&class| counts[class] > 0);
    let first = waits.clone().next()?;
    match waits.find(|&class| passed_over[class] >= PATIENCE) {
        Some(class) => Some((class, true)),
        None => Some((first, false)),
    }
}

/// Counts that `times` jobs of the class `next` go before the lower classes. `counts` is the number
/// of jobs in each class.
fn pass_over(
    counts: [usize; CLASSES],
    passed_over: &mut [usize; CLASSES],
    next: usize,
    times: usize,
) {
    passed_over[next] = 0;
    for lower in next + 1..CLASSES {
        if counts[lower] > 0 {
            passed_over[lower] += times;
        }
    }
}

#[cfg(test)]
mod tests;
