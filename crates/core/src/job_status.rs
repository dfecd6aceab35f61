//! How a job stands, in one set of words for people, filters and JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::JobState;

/// How a job stands, in the words in which it is told: its place, and of what is in `failed/`
/// whether somebody canceled it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Being written, not yet a job.
    Writing,
    /// It waits for its turn, or for other jobs.
    #[serde(alias = "ready")]
    Queued,
    /// It is being answered.
    #[serde(alias = "processing")]
    Running,
    /// It was answered.
    Done,
    /// It was not, and will not be.
    Failed,
    /// Somebody canceled it, or the client that waited went away.
    Canceled,
}

impl JobStatus {
    /// `status` in the `meta.json` of a job that was canceled.
    const CANCELED: &'static str = "canceled";

    /// That of a job in this place, with this `status` in its `meta.json`.
    pub fn of(place: JobState, status: Option<&str>) -> Self {
        match place {
            JobState::Writing => Self::Writing,
            JobState::Ready => Self::Queued,
            JobState::Processing => Self::Running,
            JobState::Done => Self::Done,
            JobState::Failed if status == Some(Self::CANCELED) => Self::Canceled,
            JobState::Failed => Self::Failed,
        }
    }

    /// Where such a job is.
    pub fn place(self) -> JobState {
        match self {
            Self::Writing => JobState::Writing,
            Self::Queued => JobState::Ready,
            Self::Running => JobState::Processing,
            Self::Done => JobState::Done,
            Self::Failed | Self::Canceled => JobState::Failed,
        }
    }

    /// Whether it will not move by itself any more.
    pub fn is_final(self) -> bool {
        self.place().is_final()
    }

    /// The word, as it stands on the wire and in `jobs`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Canceled => Self::CANCELED,
        }
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_told_of_in_one_set_of_words_and_earlier_ones_are_understood() {
        let place = JobState::Failed;
        assert_eq!(JobStatus::of(place, Some("canceled")), JobStatus::Canceled);
        assert_eq!(JobStatus::of(place, Some("failed")), JobStatus::Failed);
        assert_eq!(JobStatus::of(JobState::Done, Some("canceled")), JobStatus::Done);
        for place in JobState::ALL {
            let status = JobStatus::of(place, None);
            assert_eq!(status.place(), place);
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        let read = |word: &str| serde_json::from_value::<JobStatus>(word.into()).unwrap();
        assert_eq!([read("ready"), read("processing")], [JobStatus::Queued, JobStatus::Running]);
    }
}
