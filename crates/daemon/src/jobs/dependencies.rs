//! Which jobs wait for the end of which others: a value that is told and never waits.
//!
//! It knows only the held jobs. So it is told how each dependency stands when a job is held, and of
//! every end after that. Each edge is added once and removed once: a chain or a fan of n jobs costs
//! n steps.

use std::collections::{BTreeSet, HashMap, HashSet};

use threadrunner_core::{ErrorCode, Failure, JobId};

use crate::store::{After, Standing};

/// Held jobs, and what they wait for.
#[derive(Debug, Default)]
pub(crate) struct Dependencies {
    held: HashMap<JobId, Held>,
    /// For each dependency, the held jobs that wait for it.
    waiting: HashMap<JobId, HashSet<JobId>>,
}

#[derive(Debug)]
struct Held {
    /// What it still waits for.
    on: BTreeSet<JobId>,
    /// Whether it may begin even if a dependency fails or is canceled.
    any: bool,
    /// The one of `on` that is the previous turn of its session; the job begins however that ends.
    turn: Option<JobId>,
}

/// Why a job can never begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Broken {
    /// What it waits for ended without an answer.
    Dependency { on: JobId, how: Standing },
    /// It waits for itself through this job.
    Cycle { by: JobId },
}

/// What happens to a job that may have to wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may begin.
    Free,
    /// It is held.
    Held,
    /// It fails.
    Broken(Broken),
}

/// What a job's end means for held jobs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Released {
    /// No longer held: these may begin.
    pub(crate) free: Vec<JobId>,
    /// No longer held: these fail, each listed after the job that makes it fail.
    pub(crate) broken: Vec<(JobId, Broken)>,
    /// Still held: these wait for other jobs too.
    pub(crate) held: Vec<JobId>,
}

impl Broken {
    /// The failure to record and report.
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::Cycle { by } => Failure::new(
                ErrorCode::InvalidRequest,
                format!("the job waits for itself through job {by}"),
            )
            .hint("remove the cycle from \"after\" in job.json, then `threadrunner retry`"),
            Self::Dependency { on, how } => {
                let ended = match how {
                    Standing::Canceled => "was canceled",
                    Standing::Missing => "does not exist or was removed",
                    Standing::Open | Standing::Done | Standing::Failed => "failed",
                };
                let failure = Failure::new(
                    ErrorCode::DependencyFailed,
                    format!("the job waited for job {on}, which {ended}"),
                );
                match how {
                    Standing::Missing => failure.hint("submit the job again, after another"),
                    _ => failure.hint(format!(
                        "`threadrunner result {on}` says why; `threadrunner retry` that job \
                         first, then this one"
                    )),
                }
            }
        }
    }
}

impl Dependencies {
    /// The number of held jobs.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// What a held job still waits for.
    pub(crate) fn waits_for(&self, id: &JobId) -> Option<&BTreeSet<JobId>> {
        self.held.get(id).map(|held| &held.on)
    }

    /// One of the held jobs that wait for this job.
    pub(crate) fn waiter(&self, id: &JobId) -> Option<&JobId> {
        self.waiting.get(id)?.iter().next()
    }

    /// The jobs that held jobs wait for.
    pub(crate) fn waited_for(&self) -> impl Iterator<Item = &JobId> {
        self.waiting.keys()
    }

    /// Decides whether a job may begin, and holds it if it must wait.
    pub(crate) fn hold(&mut self, id: &JobId, after: After) -> Verdict {
        let mut on = BTreeSet::new();
        for (dependency, how) in after.jobs {
            match how {
                Standing::Open => {
                    on.insert(dependency);
                }
                Standing::Done => {}
                // Fails even with `any`: the job was meant to wait for something.
                Standing::Missing => {
                    return Verdict::Broken(Broken::Dependency { on: dependency, how });
                }
                Standing::Failed | Standing::Canceled if after.any => {}
                Standing::Failed | Standing::Canceled => {
                    return Verdict::Broken(Broken::Dependency { on: dependency, how });
                }
            }
        }
        // If the job names that turn as a dependency too, how the turn ends does count.
        let turn = after.turn.filter(|turn| on.insert(turn.clone()));
        if on.is_empty() {
            return Verdict::Free;
        }
        if let Some(by) = self.cycle_through(id, &on) {
            return Verdict::Broken(Broken::Cycle { by });
        }
        for dependency in &on {
            self.waiting.entry(dependency.clone()).or_default().insert(id.clone());
        }
        self.held.insert(id.clone(), Held { on, any: after.any, turn });
        Verdict::Held
    }

    /// Records a job's end. Held jobs that fail because of it end too, and so on down the chain.
    pub(crate) fn ended(&mut self, id: &JobId, how: Standing) -> Released {
        let mut released = Released::default();
        let mut ends = vec![(id.clone(), how)];
        let mut next = 0;
        while let Some((ended, how)) = ends.get(next).cloned() {
            next += 1;
            let Some(waiting) = self.waiting.remove(&ended) else { continue };
            let mut waiting: Vec<_> = waiting.into_iter().collect();
            waiting.sort_unstable();
            for job in waiting {
                let Some(held) = self.held.get_mut(&job) else { continue };
                held.on.remove(&ended);
                let fails = match how {
                    _ if held.turn.as_ref() == Some(&ended) => false,
                    Standing::Open | Standing::Done => false,
                    Standing::Failed | Standing::Canceled => !held.any,
                    Standing::Missing => true,
                };
                if fails {
                    self.forget(&job);
                    let why = Broken::Dependency { on: ended.clone(), how };
                    released.broken.push((job.clone(), why));
                    ends.push((job, Standing::Failed));
                } else if held.on.is_empty() {
                    self.held.remove(&job);
                    released.free.push(job);
                } else {
                    released.held.push(job);
                }
            }
        }
        // A job listed here may have failed after that because of another dependency.
        released.held.retain(|job| self.held.contains_key(job));
        released
    }

    /// Forgets a held job, whatever becomes of it. Jobs that wait for it keep waiting.
    pub(crate) fn forget(&mut self, id: &JobId) {
        let Some(held) = self.held.remove(id) else { return };
        for dependency in held.on {
            if let Some(waiting) = self.waiting.get_mut(&dependency) {
                waiting.remove(id);
                if waiting.is_empty() {
                    self.waiting.remove(&dependency);
                }
            }
        }
    }

    /// Finds a job through which `id` would wait for itself if it waited for `on`.
    ///
    /// A job submitted to the daemon never does, because it waits only for jobs that exist already.
    /// One whose `job.json` comes from another program may. The search goes from both ends at once
    /// until one of them is exhausted, so a chain found in any order costs n log n steps in all,
    /// and one found in order costs none.
    fn cycle_through(&self, id: &JobId, on: &BTreeSet<JobId>) -> Option<JobId> {
        if on.contains(id) {
            return Some(id.clone());
        }
        if !self.waiting.contains_key(id) {
            return None;
        }
        let mut below: HashSet<&JobId> = on.iter().collect();
        let mut above: HashSet<&JobId> = HashSet::from([id]);
        let mut down: Vec<&JobId> = on.iter().collect();
        let mut up: Vec<&JobId> = vec![id];
        while let (Some(lower), Some(upper)) = (down.pop(), up.pop()) {
            for next in self.held.get(lower).into_iter().flat_map(|held| &held.on) {
                if above.contains(next) {
                    return Some(lower.clone());
                }
                if below.insert(next) {
                    down.push(next);
                }
            }
            for next in self.waiting.get(upper).into_iter().flatten() {
                if below.contains(next) {
                    return Some(next.clone());
                }
                if above.insert(next) {
                    up.push(next);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
