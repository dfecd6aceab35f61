//! The states of the jobs that another job waits for, from their directories.

use threadrunner_core::{JobId, JobState, JobStatus};
use threadrunner_workspace::{Reader, WorkspaceError};

/// What a job waits for, and the state of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct After {
    pub(crate) jobs: Vec<(JobId, Standing)>,
    /// Whether a failed job is as good as an answered one.
    pub(crate) any: bool,
    /// The turn before it in its session, whatever its outcome will be.
    pub(crate) turn: Option<JobId>,
}

/// The state of a job, for one that waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has not ended.
    Open,
    /// It has an answer.
    Done,
    /// It failed.
    Failed,
    /// It was canceled.
    Canceled,
    /// It does not exist, or no longer.
    Missing,
}

impl After {
    /// Looks up the states of these jobs.
    pub(super) fn of(jobs: Vec<JobId>, any: bool, turn: Option<JobId>, reader: &Reader) -> Self {
        let stands = |id| {
            let how = standing(&id, reader);
            (id, how)
        };
        let turn = turn.filter(|turn| standing(turn, reader) == Standing::Open);
        Self { jobs: jobs.into_iter().map(stands).collect(), any, turn }
    }
}

/// Looks up the state of a job.
pub(super) fn standing(id: &JobId, reader: &Reader) -> Standing {
    match reader.locate(id) {
        Ok((JobState::Done, _)) => Standing::Done,
        Ok((JobState::Failed, _)) => match reader.record(id) {
            Ok(record) if record.state == JobStatus::Canceled => Standing::Canceled,
            _ => Standing::Failed,
        },
        Ok(_) => Standing::Open,
        Err(WorkspaceError::NotFound { .. }) => Standing::Missing,
        // Unknown for now: it is asked for again with the next listing.
        Err(error) => {
            tracing::warn!(job = %id, %error, "cannot read a job's state");
            Standing::Open
        }
    }
}
