//! Remembers the newest names of the states that can hold very many jobs, so that asking for them
//! does not read a directory of a million names. [`crate::newest_jobs`] reads and
//! updates it.
//!
//! What this process changes is noted as it happens. What others change shows in the directory's
//! modification time: if it is not that of our last change, everything remembered is forgotten. Two
//! changes within one tick of the file system's clock look like one. The watcher also reports what
//! others put into `input/ready`; a job that they took away is found missing when it is read.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use threadrunner_core::{JobId, JobState};

use crate::order::by_time;

/// The minimum number of names to remember of a state, if it has that many.
pub(crate) const REMEMBERED: usize = 1024;

/// The states whose names are remembered. `processing` never holds many.
pub(crate) const STATES: [JobState; 3] = [JobState::Ready, JobState::Done, JobState::Failed];

/// When a directory last changed, in seconds and nanoseconds.
pub(crate) type Changed = (i128, i128);

/// The names remembered of a workspace.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    states: [State; STATES.len()],
    /// The job that was submitted or arrived last, and when, as far as this process saw.
    last: Mutex<Option<(JobId, Instant)>>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Held while reading the directory. Others wait for the result.
    pub(crate) reading: Mutex<()>,
    pub(crate) known: Mutex<Known>,
}

#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) names: Option<Names>,
    /// When the directory last changed, as far as this process knows.
    pub(crate) changed: Option<Changed>,
    /// What this process changes while the directory is being read; `None` once others change it
    /// too.
    pub(crate) meanwhile: Option<Vec<Change>>,
}

#[derive(Debug)]
pub(crate) enum Change {
    Came(JobId),
    Went(JobId),
}

/// The newest names, oldest first.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) newest: Vec<JobId>,
    /// Whether these are all names of the state.
    pub(crate) all: bool,
}

impl Recent {
    /// Notes that a job was submitted, or arrived from another program.
    pub(crate) fn arrived(&self, id: &JobId) {
        *self.arrival() = Some((id.clone(), Instant::now()));
    }

    pub(crate) fn last(&self) -> Option<(JobId, Instant)> {
        self.arrival().clone()
    }

    fn arrival(&self) -> MutexGuard<'_, Option<(JobId, Instant)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn of(&self, state: JobState) -> Option<&State> {
        let index = STATES.iter().position(|remembered| *remembered == state)?;
        Some(&self.states[index])
    }
}

impl State {
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        // A panic while it was held left nothing that the next check would not find.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remembered(&self, changed: Changed, limit: usize) -> Option<Vec<JobId>> {
        let known = self.known();
        let names = known.names.as_ref().filter(|_| known.changed == Some(changed))?;
        (names.all || names.newest.len() >= limit).then(|| names.last(limit))
    }
}

impl Known {
    /// The state while the directory is read. `changed` is its modification time before that.
    pub(crate) fn reading(changed: Changed) -> Self {
        Self { names: None, changed: Some(changed), meanwhile: Some(Vec::new()) }
    }

    /// Forgets everything if another process has changed the directory.
    pub(crate) fn check(&mut self, changed: Option<Changed>) {
        if self.changed != changed {
            *self = Self::default();
        }
    }

    pub(crate) fn note(&mut self, change: Change) {
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.push(change);
        } else if let Some(names) = &mut self.names {
            names.apply(change);
            names.forget_the_oldest();
        }
    }
}

impl Names {
    pub(crate) fn apply(&mut self, change: Change) {
        let (Change::Came(id) | Change::Went(id)) = &change;
        let place = self.newest.binary_search_by(|other| by_time(other, id));
        match (change, place) {
            // A job older than all that are remembered does not belong, unless all are remembered.
            (Change::Came(_), Err(0)) if !self.all => {}
            (Change::Came(id), Err(place)) => self.newest.insert(place, id),
            (Change::Went(_), Ok(place)) => drop(self.newest.remove(place)),
            (Change::Came(_), Ok(_)) | (Change::Went(_), Err(_)) => {}
        }
    }

    pub(crate) fn forget_the_oldest(&mut self) {
        if self.newest.len() > 2 * REMEMBERED {
            self.newest.drain(..self.newest.len() - REMEMBERED);
            self.newest.shrink_to(2 * REMEMBERED);
            self.all = false;
        }
    }

    pub(crate) fn last(&self, limit: usize) -> Vec<JobId> {
        self.newest.iter().rev().take(limit).cloned().collect()
    }
}
