//! How the jobs stand that another one waits for, as their directories say.

use threadrunner_core::{JobId, JobState};
use threadrunner_workspace::{Reader, WorkspaceError};

/// What a job is to wait for, and how each of that stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct After {
    pub(crate) jobs: Vec<(JobId, Standing)>,
    /// Whether a failure is as good as an answer.
    pub(crate) any: bool,
    /// The turn of its session that goes before it, however that ends.
    pub(crate) turn: Option<JobId>,
}

/// How a job stands, for one that waits for it.
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
    /// There is no such job, or no more.
    Missing,
}

impl After {
    /// These jobs, looked at now.
    pub(super) fn of(jobs: Vec<JobId>, any: bool, turn: Option<JobId>, reader: &Reader) -> Self {
        let stands = |id| {
            let how = standing(&id, reader);
            (id, how)
        };
        let turn = turn.filter(|turn| standing(turn, reader) == Standing::Open);
        Self { jobs: jobs.into_iter().map(stands).collect(), any, turn }
    }
}

/// How a job stands now.
pub(super) fn standing(id: &JobId, reader: &Reader) -> Standing {
    match reader.locate(id) {
        Ok((JobState::Done, _)) => Standing::Done,
        Ok((JobState::Failed, _)) => match reader.record(id) {
            Ok(record) if record.meta.status.as_deref() == Some("canceled") => Standing::Canceled,
            _ => Standing::Failed,
        },
        Ok(_) => Standing::Open,
        Err(WorkspaceError::NotFound { .. }) => Standing::Missing,
        // It cannot be looked at now: it is asked for again with the next listing.
        Err(error) => {
            tracing::warn!(job = %id, %error, "cannot see how a job stands");
            Standing::Open
        }
    }
}
