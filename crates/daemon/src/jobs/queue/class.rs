//! The queued jobs of one model and priority, with tags taking turns.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use threadrunner_core::JobId;

use super::line::Line;

/// A job's position in its class. Each ticket is issued only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Whether the job was put back; then it takes no turn from its tag.
    put_back: bool,
    number: u64,
}

/// The queued jobs of one model and priority.
#[derive(Debug, Default)]
pub(super) struct Class {
    /// Jobs that had their turn and were put back. They go before all others.
    put_back: Line,
    /// The other jobs by tag; the empty tag stands for jobs without one.
    groups: HashMap<Arc<str>, Group>,
    /// The order of turns: the first tag goes next. Each group is in it once.
    turns: BTreeMap<u64, Arc<str>>,
    last_turn: u64,
    last_number: u64,
    len: usize,
}

#[derive(Debug)]
struct Group {
    line: Line,
    turn: u64,
}

impl Class {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Puts a job behind the others of its tag. A tag that had no jobs waits a whole round for its
    /// turn, so using a new tag for each job does not jump the queue.
    pub(super) fn push(&mut self, id: JobId, tag: &str) -> Ticket {
        self.len += 1;
        self.last_number += 1;
        let number = self.last_number;
        match self.groups.get_mut(tag) {
            Some(group) => group.line.push(number, id),
            None => {
                self.last_turn += 1;
                let tag: Arc<str> = tag.into();
                self.turns.insert(self.last_turn, Arc::clone(&tag));
                let mut line = Line::default();
                line.push(number, id);
                self.groups.insert(tag, Group { line, turn: self.last_turn });
            }
        }
        Ticket { put_back: false, number }
    }

    /// Puts a job that had its turn before all that have not.
    pub(super) fn put_back(&mut self, id: JobId) -> Ticket {
        self.len += 1;
        self.last_number += 1;
        self.put_back.push(self.last_number, id);
        Ticket { put_back: true, number: self.last_number }
    }

    pub(super) fn pop(&mut self) -> Option<JobId> {
        if let Some(id) = self.put_back.pop() {
            self.len -= 1;
            return Some(id);
        }
        let (_, tag) = self.turns.pop_first()?;
        let group = self.groups.get_mut(&tag)?;
        let id = group.line.pop();
        if group.line.len() == 0 {
            self.groups.remove(&tag);
        } else {
            self.last_turn += 1;
            group.turn = self.last_turn;
            self.turns.insert(self.last_turn, tag);
        }
        self.len -= 1;
        id
    }

    pub(super) fn remove(&mut self, tag: &str, ticket: Ticket) -> Option<JobId> {
        let id = if ticket.put_back {
            self.put_back.remove(ticket.number)?
        } else {
            let group = self.groups.get_mut(tag)?;
            let id = group.line.remove(ticket.number)?;
            if group.line.len() == 0 {
                self.turns.remove(&group.turn);
                self.groups.remove(tag);
            }
            id
        };
        self.len -= 1;
        Some(id)
    }

    /// How many jobs of this class go before the one with this ticket.
    pub(super) fn rank(&self, tag: &str, ticket: Ticket) -> Option<usize> {
        if ticket.put_back {
            return self.put_back.rank(ticket.number);
        }
        let own = self.groups.get(tag)?;
        let round = own.line.rank(ticket.number)?;
        // The nth job of a tag goes in the nth round. In each round before that, every tag with
        // jobs left has one; in the job's own round, only the tags whose turn comes first have one.
        let others = self.turns.iter().filter_map(|(turn, tag)| {
            let rounds = round + usize::from(*turn < own.turn);
            Some(self.groups.get(tag)?.line.len().min(rounds))
        });
        Some(self.put_back.len() + others.sum::<usize>())
    }
}
