//! How a job stands, in one set of words for people, filters and JSON.

use crate::JobState;
use crate::open_enum::open_enum;

open_enum! {
    /// How a job stands: its place, and for a job in `failed/` whether it was canceled.
    pub enum JobStatus {
        /// Being written, not yet a job.
        Writing = "writing",
        /// Waiting for its turn, or for other jobs.
        Queued = "queued" | "ready",
        /// Being answered.
        Running = "running" | "processing",
        /// Answered.
        Done = "done",
        /// Not answered, and it will not be.
        Failed = "failed",
        /// Canceled by a command, or because the client that waited for it went away.
        Canceled = "canceled",
    }
}

impl JobStatus {
    /// That of a job in this place, with this `status` in its `meta.json`.
    pub fn of(place: JobState, status: Option<&str>) -> Self {
        match place {
            JobState::Writing => Self::Writing,
            JobState::Ready => Self::Queued,
            JobState::Processing => Self::Running,
            JobState::Done => Self::Done,
            JobState::Failed if status == Some(Self::Canceled.as_str()) => Self::Canceled,
            JobState::Failed => Self::Failed,
        }
    }

    /// The place of such a job; `None` if this program does not know the status.
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

    /// Whether a job of this status no longer moves by itself.
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
        assert_eq!(JobStatus::of(place, Some("canceled")), JobStatus::Canceled);
        assert_eq!(JobStatus::of(place, Some("failed")), JobStatus::Failed);
        assert_eq!(JobStatus::of(JobState::Done, Some("canceled")), JobStatus::Done);
        for place in JobState::ALL {
            let status = JobStatus::of(place, None);
            assert_eq!(status.place(), Some(place));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        let read = |word: &str| serde_json::from_value::<JobStatus>(word.into()).unwrap();
        assert_eq!([read("ready"), read("processing")], [JobStatus::Queued, JobStatus::Running]);
    }
}
