//! What operations ask about.

use serde::{Deserialize, Serialize};

use super::JobRecord;
use crate::open_enum::{all_known, known_if_any};
use crate::{BackendKind, JobStatus, KeepAlive, SessionName};

/// Names one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobQuery {
    /// An id, an unambiguous prefix or suffix of one, or `last`.
    pub job: String,
    /// The workspace, by its name in `config.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
}

/// Names one job, and how its answer is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowQuery {
    /// The job.
    #[serde(flatten)]
    pub query: JobQuery,
    /// `false` sends the text in one token frame, and no event but `accepted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

/// Which jobs are told of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchQuery {
    /// The workspace, by its name in `config.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
}

/// Names many jobs. What is absent or empty excludes nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobsQuery {
    /// Only in these states.
    #[serde(deserialize_with = "all_known", skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<JobStatus>,
    /// Only with this tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Only of this model, by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Only submitted in the last so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer_than_s: Option<f64>,
    /// Only submitted longer ago than so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than_s: Option<f64>,
    /// At most so many; the daemon has a bound of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only their ids, of all of them unless there is a limit ([`JobIds`](super::JobIds)).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ids: bool,
    /// The workspace, by its name in `config.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
}

impl JobsQuery {
    /// Whether a job is among those that are named, submitted so many seconds ago.
    pub fn fits(&self, record: &JobRecord, age_s: f64) -> bool {
        (self.states.is_empty() || self.states.contains(&record.state))
            && self.tag.as_ref().is_none_or(|tag| record.meta.tags.contains(tag))
            && self.model.as_ref().is_none_or(|name| record.meta.model.as_ref() == Some(name))
            && self.newer_than_s.is_none_or(|limit| age_s <= limit)
            && self.older_than_s.is_none_or(|limit| age_s >= limit)
    }
}

/// Which jobs that have ended need not be kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PruneQuery {
    /// Only those that ended longer ago than so many seconds.
    pub older_than_s: f64,
    /// Not those that failed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_failed: bool,
    /// The workspace, by its name in `config.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
}

/// Names a loaded model, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelQuery {
    /// The backend; else the daemon's default.
    #[serde(deserialize_with = "known_if_any", skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendKind>,
    /// A path, a name or an alias; absent, `load` takes the default and `unload` takes all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The draft model; absent, `load` takes the one that is configured for the model, and `unload`
    /// takes the model whichever it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft: Option<String>,
}

/// Names a model to load, and how long it stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadQuery {
    /// The model.
    #[serde(flatten)]
    pub query: ModelQuery,
    /// It is unloaded only by name, neither for being idle nor to make room.
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
    /// The workspace, by its name in `config.toml`; absent, the only one that has such a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
}

/// Names one session that need not be kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RmSessionQuery {
    /// The session.
    #[serde(flatten)]
    pub query: SessionQuery,
    /// With the jobs that are its turns.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub jobs: bool,
}

/// Names many sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionsQuery {
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The workspace, by its name in `config.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
}

/// How the daemon ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StopQuery {
    /// Do not wait for running jobs.
    pub now: bool,
}
