//! The queue of waiting requests, and which of them is next.

use std::collections::VecDeque;

use super::sequence::Sequence;
use crate::engine_protocol::EngineRequestId;
use crate::{Priority, SeqId};

/// A request that is not in the batch.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) sequence: Sequence,
    /// The sequence that a paused or preempted request keeps: its sampler, and its cells unless
    /// others needed them.
    pub(super) kept: Option<SeqId>,
}

/// Waiting requests by priority, oldest first within each.
///
/// Aging counts admissions: a priority that was passed over [`PATIENCE`] times goes next, whatever
/// else waits. So a fixed share of admissions goes to the lowest priority and nothing waits
/// forever, yet no amount of waiting batch work comes between two interactive requests.
#[derive(Debug, Default)]
pub(super) struct Queue {
    classes: [VecDeque<Waiting>; CLASSES],
    passed_over: [u32; CLASSES],
    kept: usize,
}

const CLASSES: usize = 3;
const INTERACTIVE: usize = 2;

/// How many admissions of higher priorities each priority lets pass, from batch to interactive.
const PATIENCE: [u32; CLASSES] = [16, 8, u32::MAX];

fn class(priority: Priority) -> usize {
    match priority {
        Priority::Batch => 0,
        Priority::Normal => 1,
        Priority::Interactive => INTERACTIVE,
    }
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.classes.iter().map(VecDeque::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.classes.iter().all(VecDeque::is_empty)
    }

    /// Inserts a request by age: a preempted one is older than most and goes before them.
    pub(super) fn push(&mut self, waiting: Waiting) {
        self.kept += usize::from(waiting.kept.is_some());
        let queue = &mut self.classes[class(waiting.sequence.standing)];
        let arrival = waiting.sequence.arrival;
        let place = queue.partition_point(|other| other.sequence.arrival < arrival);
        queue.insert(place, waiting);
    }

    /// The next request. If no sequence is free, only a request that kept its own can be next.
    pub(super) fn peek(&self, sequence_free: bool) -> Option<&Sequence> {
        let (class, place) = self.next(sequence_free)?;
        self.classes[class].get(place).map(|waiting| &waiting.sequence)
    }

    /// Removes the request that [`Queue::peek`] shows.
    pub(super) fn pop(&mut self, sequence_free: bool) -> Option<Waiting> {
        let (class, place) = self.next(sequence_free)?;
        self.pop_at(class, place)
    }

    fn pop_at(&mut self, class: usize, place: usize) -> Option<Waiting> {
        for lower in 0..class {
            self.passed_over[lower] += u32::from(!self.classes[lower].is_empty());
        }
        self.passed_over[class] = 0;
        self.take(class, place)
    }

    /// The next request submitted as interactive, whatever was passed over.
    pub(super) fn peek_interactive(&self, sequence_free: bool) -> Option<&Sequence> {
        let (class, place) = self.first_interactive(sequence_free)?;
        self.classes[class].get(place).map(|waiting| &waiting.sequence)
    }

    /// Removes the request that [`Queue::peek_interactive`] shows.
    pub(super) fn pop_interactive(&mut self, sequence_free: bool) -> Option<Waiting> {
        let (class, place) = self.first_interactive(sequence_free)?;
        self.pop_at(class, place)
    }

    /// The sequence of the lowest-ranked request that kept one which `matches`.
    pub(super) fn least_kept(&self, matches: impl Fn(SeqId) -> bool) -> Option<SeqId> {
        if self.kept == 0 {
            return None;
        }
        let kept = |waiting: &Waiting| {
            let seq = waiting.kept.filter(|seq| matches(*seq))?;
            Some((waiting.sequence.rank(), seq))
        };
        self.classes.iter().flatten().filter_map(kept).min().map(|(_, seq)| seq)
    }

    /// Removes a request by its id.
    pub(super) fn remove(&mut self, id: EngineRequestId) -> Option<Waiting> {
        self.remove_where(|waiting| waiting.sequence.id == id)
    }

    /// Removes the request that kept `seq`.
    pub(super) fn remove_kept(&mut self, seq: SeqId) -> Option<Waiting> {
        self.remove_where(|waiting| waiting.kept == Some(seq))
    }

    /// All waiting requests.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.classes.iter().flatten()
    }

    /// Removes all requests.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Waiting> {
        std::mem::take(self).classes.into_iter().rev().flatten()
    }

    fn remove_where(&mut self, matches: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        let (class, place) = self
            .classes
            .iter()
            .enumerate()
            .find_map(|(class, queue)| Some((class, queue.iter().position(&matches)?)))?;
        self.take(class, place)
    }

    fn take(&mut self, class: usize, place: usize) -> Option<Waiting> {
        let waiting = self.classes[class].remove(place)?;
        self.kept -= usize::from(waiting.kept.is_some());
        if self.classes[class].is_empty() {
            self.passed_over[class] = 0;
        }
        Some(waiting)
    }

    fn next(&self, sequence_free: bool) -> Option<(usize, usize)> {
        if !sequence_free && self.kept == 0 {
            return None;
        }
        let impatient = (0..CLASSES).filter(|&class| self.passed_over[class] >= PATIENCE[class]);
        impatient.chain((0..CLASSES).rev()).find_map(|class| self.first(class, sequence_free))
    }

    /// The first request of a class that can run.
    fn first(&self, class: usize, sequence_free: bool) -> Option<(usize, usize)> {
        self.first_where(class, |waiting| sequence_free || waiting.kept.is_some())
    }

    fn first_interactive(&self, sequence_free: bool) -> Option<(usize, usize)> {
        self.first_where(INTERACTIVE, |waiting| {
            let can_go = sequence_free || waiting.kept.is_some();
            can_go && waiting.sequence.is_interactive()
        })
    }

    fn first_where(
        &self,
        class: usize,
        matches: impl FnMut(&Waiting) -> bool,
    ) -> Option<(usize, usize)> {
        Some((class, self.classes[class].iter().position(matches)?))
    }
}
