//! The arguments of operations.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::JobRecord;
use crate::open_enum::{all_known, known_if_any};
use crate::{BackendKind, JobId, JobSelector, JobStatus, KeepAlive, SessionName, WorkspaceName};

/// Names one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobQuery {
    /// The job.
    pub job: JobSelector,
    /// The workspace, by name or absolute path; `None` is all workspaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceName>,
}

impl From<&JobId> for JobQuery {
    /// The job of this id, in whichever workspace.
    fn from(job: &JobId) -> Self {
        Self { job: job.into(), workspace: None }
    }
}

/// Names one job, and how to send its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowQuery {
    /// The job.
    #[serde(flatten)]
    pub query: JobQuery,
    /// `false` sends the text in one token frame, and no events but `accepted` and `restarted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

/// Which jobs to watch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchQuery {
    /// The workspace, by name or absolute path; `None` is all workspaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceName>,
}

/// A filter for jobs. A missing or empty key excludes nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobsQuery {
    /// Only jobs in one of these states.
    #[serde(deserialize_with = "all_known", skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<JobStatus>,
    /// Only jobs with this tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Only jobs of this model, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Only jobs submitted at most this many seconds ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer_than_s: Option<f64>,
    /// Only jobs submitted at least this many seconds ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than_s: Option<f64>,
    /// The maximum number of jobs to return. The daemon has a default and a bound of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Returns only ids ([`JobIds`](super::JobIds)): all of them, unless there is a limit.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ids: bool,
    /// The workspace, by name or absolute path; `None` is all workspaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceName>,
}

impl JobsQuery {
    /// Whether a job matches at this time. Does not check the workspace or the limit.
    pub fn fits(&self, record: &JobRecord, now: SystemTime) -> bool {
        let age = record.meta.submitted_at.as_ref().and_then(|time| time.age(now));
        let age_s = age.unwrap_or_default().as_secs_f64();
        (self.states.is_empty() || self.states.contains(&record.state))
            && self.tag.as_ref().is_none_or(|tag| record.meta.tags.contains(tag))
            && self.model.as_ref().is_none_or(|name| record.meta.model.as_ref() == Some(name))
            && self.newer_than_s.is_none_or(|limit| age_s <= limit)
            && self.older_than_s.is_none_or(|limit| age_s >= limit)
    }
}

/// Which ended jobs to remove.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PruneQuery {
    /// Only jobs that ended more than this many seconds ago.
    pub older_than_s: f64,
    /// Keeps failed and canceled jobs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_failed: bool,
    /// The workspace, by name or absolute path; `None` is all workspaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceName>,
}

/// Names a model, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelQuery {
    /// The backend; `None` is the daemon's default.
    #[serde(deserialize_with = "known_if_any", skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendKind>,
    /// A path, a name or an alias. `None` is the default for `load`, and for `unload` all models
    /// that are idle and not pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The draft model. `None` is the one configured for the model for `load`, and any for
    /// `unload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft: Option<String>,
}

/// Names a model to load, and how long it stays loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadQuery {
    /// The model.
    #[serde(flatten)]
    pub query: ModelQuery,
    /// Unloads it only by name, neither for being idle nor to make room.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pin: bool,
    /// How long it stays loaded, until a request says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
}

/// Names one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionQuery {
    /// Its name.
    pub session: SessionName,
    /// The workspace, by name or absolute path. `None` searches all; the name must be unique there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceName>,
}

/// Names a session to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RmSessionQuery {
    /// The session.
    #[serde(flatten)]
    pub query: SessionQuery,
    /// Also removes the jobs of its turns.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub jobs: bool,
}

/// Which sessions to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionsQuery {
    /// The maximum number of sessions to return.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The workspace, by name or absolute path; `None` is all workspaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceName>,
}

/// How to stop the daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StopQuery {
    /// Does not wait for running jobs.
    pub now: bool,
}
