//! Which jobs may not be removed because an unfinished job may still read them.
//!
//! A job needs what it waits for until it has ended, not only until it begins: after a crash it
//! begins again, and reads all of it once more.

use std::collections::{HashMap, HashSet};

use threadrunner_core::JobId;

/// Unfinished jobs, and what each waits for or waited for.
#[derive(Debug, Default)]
pub(super) struct Needs {
    of: HashMap<JobId, Box<[JobId]>>,
    by: HashMap<JobId, HashSet<JobId>>,
}

impl Needs {
    /// Notes what a job needs.
    pub(super) fn add(&mut self, job: &JobId, needed: &[JobId]) {
        if needed.is_empty() || self.of.contains_key(job) {
            return;
        }
        for id in needed {
            self.by.entry(id.clone()).or_default().insert(job.clone());
        }
        self.of.insert(job.clone(), needed.into());
    }

    /// Notes that a job has ended.
    pub(super) fn ended(&mut self, job: &JobId) {
        for id in self.of.remove(job).unwrap_or_default() {
            if let Some(by) = self.by.get_mut(&id) {
                by.remove(job);
                if by.is_empty() {
                    self.by.remove(&id);
                }
            }
        }
    }

    /// Returns a job that needs this one. `lives` says whether a job still exists and has not
    /// ended: one that was removed by hand needs nothing any more.
    pub(super) fn needed_by(
        &mut self,
        id: &JobId,
        lives: impl Fn(&JobId) -> bool,
    ) -> Option<JobId> {
        while let Some(job) = self.by.get(id).and_then(|by| by.iter().next()).cloned() {
            if lives(&job) {
                return Some(job);
            }
            self.ended(&job);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> JobId {
        JobId::parse(&number.to_string()).unwrap()
    }

    #[test]
    fn a_job_is_needed_until_all_have_ended_that_wait_for_it() {
        let mut needs = Needs::default();
        needs.add(&id(2), &[id(1)]);
        needs.add(&id(3), &[id(1), id(2)]);
        needs.add(&id(3), &[id(1), id(2)]);
        needs.ended(&id(2));
        assert_eq!(needs.needed_by(&id(1), |_| true), Some(id(3)));
        assert_eq!(needs.needed_by(&id(2), |_| true), Some(id(3)));
        needs.ended(&id(3));
        assert_eq!(needs.needed_by(&id(1), |_| true), None);
        assert!(needs.by.is_empty() && needs.of.is_empty());
    }

    #[test]
    fn a_job_taken_away_by_hand_needs_nothing() {
        let mut needs = Needs::default();
        needs.add(&id(2), &[id(1)]);
        needs.add(&id(3), &[id(1)]);
        assert_eq!(needs.needed_by(&id(1), |job| *job == id(3)), Some(id(3)));
        assert_eq!(needs.needed_by(&id(1), |_| false), None);
        assert!(needs.by.is_empty() && needs.of.is_empty());
    }
}
