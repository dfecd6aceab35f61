//! The status of a job and how it ended, in one set of words for people, filters and JSON.

use crate::JobState;
use crate::open_enum::open_enum;

open_enum! {
    /// The status of a job: its [`JobState`], and for a job in `failed/`, whether it was canceled.
    pub enum JobStatus {
        /// Being written, not yet a job.
        Writing = "writing",
        /// Waiting for its turn, or for other jobs.
        Queued = "queued" | "ready",
        /// Being answered.
        Running = "running" | "processing",
        /// Answered.
        Done = "done",
        /// Ended without an answer.
        Failed = "failed",
        /// Canceled by a command, or because the client that waited for it went away.
        Canceled = "canceled",
    }
}

open_enum! {
    /// How a job ended: `status` in `meta.json`.
    pub enum JobOutcome {
        /// Answered.
        Done = "done",
        /// Ended without an answer.
        Failed = "failed",
        /// Canceled.
        Canceled = "canceled",
    }
}

impl JobStatus {
    /// The status of a job in this state that ended like this, if it has.
    pub fn of(place: JobState, outcome: Option<JobOutcome>) -> Self {
        match place {
            JobState::Writing => Self::Writing,
            JobState::Ready => Self::Queued,
            JobState::Processing => Self::Running,
            JobState::Done => Self::Done,
            JobState::Failed if outcome == Some(JobOutcome::Canceled) => Self::Canceled,
            JobState::Failed => Self::Failed,
        }
    }

    /// The state of a job with this status; `None` if this program does not know the status.
    pub fn place(self) -> Option<JobState> {
        Some(match self {
            Self::Writing => JobState::Writing,
            Self::Queued => JobState::Ready,
            Self::Running => JobState::Processing,
            Self::Done => JobState::Done,
            Self::Failed | Self::Canceled => JobState::Failed,
            Self::Unknown => return None,
        })
    }

    /// Whether a job with this status has ended.
    pub fn is_final(self) -> bool {
        self.place().is_some_and(JobState::is_final)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_told_of_in_one_set_of_words_and_earlier_ones_are_understood() {
        let place = JobState::Failed;
        let canceled = Some(JobOutcome::Canceled);
        assert_eq!(JobStatus::of(place, canceled), JobStatus::Canceled);
        assert_eq!(JobStatus::of(place, Some(JobOutcome::Failed)), JobStatus::Failed);
        assert_eq!(JobStatus::of(JobState::Done, canceled), JobStatus::Done);
        for place in JobState::ALL {
            let status = JobStatus::of(place, None);
            assert_eq!(status.place(), Some(place));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        let read = |word: &str| serde_json::from_value::<JobStatus>(word.into()).unwrap();
        assert_eq!([read("ready"), read("processing")], [JobStatus::Queued, JobStatus::Running]);
    }
}
