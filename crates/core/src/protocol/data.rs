//! The types of `data` in answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine_protocol::EngineInfo;
use crate::{
    Failure, FinishReason, HookOutcome, JobId, JobMeta, JobStatus, Message, ModelInfo, ModelRef,
    Output, Priority, SessionName, Timestamp, Turn, Usage, WorkspaceName,
};

/// A submitted job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// Its id. The job is on disk, and survives a crash.
    pub job: JobId,
}

/// A job's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The job.
    pub job: JobId,
    /// Its state.
    pub state: JobStatus,
    /// Its place in the queue, from 1, if it is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// The jobs that it waits for, while it is held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<JobId>,
    /// The outcome of its hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_done: Option<HookOutcome>,
    /// The number of attempts begun.
    #[serde(default)]
    pub attempts: u32,
    /// Its priority.
    #[serde(default)]
    pub priority: Priority,
    /// The start of the prompt, for lists: one line of at most 80 characters.
    #[serde(default)]
    pub prompt_start: String,
    /// The session to which it was submitted as a turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionName>,
    /// The name of its workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceName>,
    /// Its directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The content of `meta.json`.
    #[serde(flatten)]
    pub meta: JobMeta,
}

impl JobRecord {
    /// Whether the job has ended, even in a way that this version does not know.
    pub fn has_ended(&self) -> bool {
        let unknown = self.state == JobStatus::Unknown;
        self.state.is_final() || (unknown && self.meta.completed_at.is_some())
    }
}

/// Records of jobs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobList {
    /// Newest first.
    pub jobs: Vec<JobRecord>,
    /// Whether more jobs matched than were sent.
    #[serde(default)]
    pub more: bool,
}

/// Ids of jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobIds {
    /// Newest first.
    pub ids: Vec<JobId>,
    /// Whether more jobs matched than were sent.
    #[serde(default)]
    pub more: bool,
}

/// A job's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// The job's record.
    #[serde(flatten)]
    pub record: JobRecord,
    /// The content of `result.txt`, or of the `embedding.json` of another program's job.
    pub text: String,
    /// What the answer holds beside its text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<Output>,
}

/// Jobs that were removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Their ids.
    pub jobs: Vec<JobId>,
    /// Jobs that could not be removed, or not with all their files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<NotRemoved>,
}

/// A job that could not be removed, or not with all its files. In the latter case, [`Removed::jobs`]
/// has it too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRemoved {
    /// Its id.
    pub job: JobId,
    /// Why.
    pub error: Failure,
}

/// Loaded models and running jobs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessList {
    /// Engines, loading or loaded.
    pub models: Vec<LoadedModel>,
    /// Running jobs.
    pub running: Vec<RunningJob>,
    /// The number of queued jobs.
    pub queued: u32,
    /// The number of jobs that wait for other jobs.
    #[serde(default)]
    pub held: u32,
    /// The memory that all engines together may take, in bytes.
    #[serde(default, rename = "memory_budget_bytes")]
    pub memory_budget: u64,
    /// How much of it they take, in bytes.
    #[serde(default, rename = "memory_used_bytes")]
    pub memory_used: u64,
}

/// An engine process and its model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadedModel {
    /// The model.
    #[serde(flatten)]
    pub model: ModelRef,
    /// Its name.
    pub name: String,
    /// The engine's process id.
    pub pid: u32,
    /// The progress of loading, from 0 to 1.
    pub loaded: f32,
    /// The engine's resident memory, in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
    /// What counts against the memory budget, in bytes: the larger of allocated and resident
    /// memory. While it loads, an estimate stands for the allocated memory.
    #[serde(default)]
    pub size_bytes: u64,
    /// Whether it is unloaded only by name.
    #[serde(default)]
    pub pinned: bool,
    /// The number of running requests.
    pub running: u32,
    /// The number of prompt tokens that it has read since it was loaded.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// How many of these were in its cache.
    #[serde(default)]
    pub cached_tokens: u64,
    /// Seconds until it is unloaded, if it is idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unload_in_s: Option<f64>,
    /// The model, once it is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<ModelInfo>,
    /// How the engine was built and runs, once it is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineInfo>,
}

/// A running job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningJob {
    /// The job.
    pub job: JobId,
    /// Its model's name.
    pub model: String,
    /// Whether it is canceled when its client goes away.
    pub attached: bool,
    /// Seconds since its attempt began.
    pub running_s: f64,
    /// The length of the answer so far, in bytes.
    pub text_bytes: u64,
}

/// Models that were unloaded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Unloaded {
    /// Their names.
    pub models: Vec<String>,
    /// The models that stay loaded, if the request named none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptModel>,
}

/// A model that stays loaded because it is busy or pinned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeptModel {
    /// The model's name.
    pub name: String,
    /// Whether it is pinned.
    pub pinned: bool,
    /// The number of running jobs.
    pub running: u32,
}

/// A workspace of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceStatus {
    /// Its name.
    pub name: WorkspaceName,
    /// Its directory.
    pub path: PathBuf,
    /// Why it is not served, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// The daemon's status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Its version.
    pub version: String,
    /// The protocol versions that it speaks.
    pub protocols: Vec<u32>,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// Its home.
    pub home: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
    /// The default workspace.
    pub workspace: PathBuf,
    /// All workspaces.
    #[serde(default)]
    pub workspaces: Vec<WorkspaceStatus>,
    /// Today's log.
    pub log: PathBuf,
    /// Its resident memory, in bytes.
    pub memory_bytes: u64,
    /// The number of queued jobs.
    pub queued: u32,
    /// The number of jobs that wait for other jobs.
    #[serde(default)]
    pub held: u32,
    /// The number of running jobs.
    pub running: u32,
    /// The memory that all engines together may take, in bytes.
    #[serde(default, rename = "memory_budget_bytes")]
    pub memory_budget: u64,
    /// How much of it they take, in bytes.
    #[serde(default, rename = "memory_used_bytes")]
    pub memory_used: u64,
    /// Engines, loading or loaded.
    pub models: Vec<LoadedModel>,
    /// Whether it is stopping.
    #[serde(default)]
    pub stopping: bool,
    /// Keys that only a newer daemon knows.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// A session's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Its name.
    pub session: SessionName,
    /// The name of its workspace.
    pub workspace: WorkspaceName,
    /// The job of the last answered turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<JobId>,
    /// The jobs of turns that have not ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<JobId>,
    /// The number of turns that have been answered.
    pub turns: u32,
    /// When the last turn was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// The name of the last turn's model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The last turn's instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The start of the last turn's prompt: one line of at most 80 characters.
    #[serde(default)]
    pub prompt_start: String,
    /// The turn before the first available one, if its job is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<JobId>,
    /// Why the session cannot be used, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// Records of sessions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionList {
    /// Most recent first.
    pub sessions: Vec<SessionRecord>,
    /// Whether there are more sessions than were sent.
    #[serde(default)]
    pub more: bool,
}

/// A session and its turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// The session's record.
    #[serde(flatten)]
    pub record: SessionRecord,
    /// The turns, oldest first.
    pub conversation: Vec<TurnRecord>,
}

/// A turn of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnRecord {
    /// The job.
    pub job: JobId,
    /// Messages that came with the prompt, before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// The prompt.
    pub prompt: String,
    /// The answer.
    pub answer: String,
    /// What the answer holds beside its text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<Output>,
    /// When it was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_at: Option<Timestamp>,
    /// The name of the model that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Why generation ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// How many tokens were read and generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

impl TurnRecord {
    /// Combines a turn with the metadata of its job.
    pub fn new(job: JobId, turn: Turn, meta: JobMeta) -> Self {
        let Turn { messages, prompt, answer, output } = turn;
        let JobMeta { submitted_at, model, finish_reason, usage, .. } = meta;
        Self { job, messages, prompt, answer, output, submitted_at, model, finish_reason, usage }
    }
}

/// A turn that was taken out of its session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoneTurn {
    /// The session's name.
    pub session: SessionName,
    /// The job of that turn, now an ordinary job.
    pub job: JobId,
    /// The number of turns left; at 0, the session was removed.
    pub turns: u32,
}

/// A session that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedSession {
    /// Its name.
    pub session: SessionName,
    /// The jobs of its turns that were removed with it.
    #[serde(default)]
    pub jobs: Vec<JobId>,
    /// Those that could not be removed, or not with all their files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<NotRemoved>,
}

/// A daemon that is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// Always true.
    pub stopping: bool,
    /// The daemon's process id.
    pub pid: u32,
}
