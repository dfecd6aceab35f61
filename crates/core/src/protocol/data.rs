//! What `data` of an answer is, for each operation.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine_protocol::EngineInfo;
use crate::{
    Failure, FinishReason, HookOutcome, JobId, JobMeta, JobStatus, Message, ModelInfo, ModelRef,
    Priority, SessionName, Turn, Usage,
};

/// A queued job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// Its id; it survives a crash.
    pub job: JobId,
}

/// What is known of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The id.
    pub job: JobId,
    /// How it stands.
    pub state: JobStatus,
    /// Its place in the queue, from 1, when it is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// The jobs whose end it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<JobId>,
    /// How the program went that was run when it had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_done: Option<HookOutcome>,
    /// How often it was begun.
    #[serde(default)]
    pub attempts: u32,
    /// Who goes first.
    #[serde(default)]
    pub priority: Priority,
    /// The beginning of the prompt, for lists: one line, at most 80 characters.
    #[serde(default)]
    pub prompt_start: String,
    /// The conversation that it is, or was to be, a turn of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionName>,
    /// The name of its workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Its directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The content of `meta.json`.
    #[serde(flatten)]
    pub meta: JobMeta,
}

/// Many jobs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobList {
    /// Newest first.
    pub jobs: Vec<JobRecord>,
    /// Whether more matched than were sent.
    #[serde(default)]
    pub more: bool,
}

/// Many jobs, by their ids alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobIds {
    /// Newest first.
    pub ids: Vec<JobId>,
    /// Whether more matched than were sent.
    #[serde(default)]
    pub more: bool,
}

/// A job's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// What is known of it.
    #[serde(flatten)]
    pub record: JobRecord,
    /// `result.txt`.
    pub text: String,
}

/// Jobs that are no more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Their ids.
    pub jobs: Vec<JobId>,
}

/// Loaded models and running requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessList {
    /// Engines, loading or loaded.
    pub models: Vec<LoadedModel>,
    /// Running jobs.
    pub running: Vec<RunningJob>,
    /// Queued jobs.
    pub queued: u32,
    /// Jobs that wait for the end of others.
    #[serde(default)]
    pub held: u32,
    /// Bytes that all engines together may take.
    #[serde(default, rename = "memory_budget_bytes")]
    pub memory_budget: u64,
    /// Bytes of it that they take.
    #[serde(default, rename = "memory_used_bytes")]
    pub memory_used: u64,
}

/// One engine process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadedModel {
    /// The model.
    #[serde(flatten)]
    pub model: ModelRef,
    /// Its name.
    pub name: String,
    /// The engine's process id.
    pub pid: u32,
    /// How far loading is, from 0 to 1.
    pub loaded: f32,
    /// The engine's resident memory, in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
    /// What it takes of the memory budget: what it allocated, or is resident, whichever is more;
    /// while it loads, what was estimated.
    #[serde(default)]
    pub size_bytes: u64,
    /// Whether it is unloaded only by name.
    #[serde(default)]
    pub pinned: bool,
    /// Requests running in it.
    pub running: u32,
    /// Tokens of the prompts that it has read since it was loaded.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// How many of them were in its cache already.
    #[serde(default)]
    pub cached_tokens: u64,
    /// Seconds until it is unloaded, when idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unload_in_s: Option<f64>,
    /// What was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<ModelInfo>,
    /// How the engine was built and runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineInfo>,
}

/// One running job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningJob {
    /// The job.
    pub job: JobId,
    /// Its model's name.
    pub model: String,
    /// Whether a client waits at the other end.
    pub attached: bool,
    /// Seconds since it was begun.
    pub running_s: f64,
    /// Bytes of answer so far.
    pub text_bytes: u64,
}

/// Engines that were ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Unloaded {
    /// The models' names.
    pub models: Vec<String>,
    /// Where none was named: those that stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptModel>,
}

/// An engine that is ended only by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeptModel {
    /// The model's name.
    pub name: String,
    /// Whether it is pinned.
    pub pinned: bool,
    /// Requests running in it.
    pub running: u32,
}

/// One workspace of the daemon's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceStatus {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// Why it is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// The daemon's own state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Its version.
    pub version: String,
    /// Protocol versions it speaks.
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
    /// Its log of today.
    pub log: PathBuf,
    /// Its resident memory, in bytes.
    pub memory_bytes: u64,
    /// Jobs queued.
    pub queued: u32,
    /// Jobs that wait for the end of others.
    #[serde(default)]
    pub held: u32,
    /// Jobs running.
    pub running: u32,
    /// Bytes that all engines together may take.
    #[serde(default, rename = "memory_budget_bytes")]
    pub memory_budget: u64,
    /// Bytes of it that they take.
    #[serde(default, rename = "memory_used_bytes")]
    pub memory_used: u64,
    /// Engines, loading or loaded.
    pub models: Vec<LoadedModel>,
    /// Whether it is ending.
    #[serde(default)]
    pub stopping: bool,
    /// What a newer daemon says beside that.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// What is known of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Its name.
    pub session: SessionName,
    /// The name of its workspace.
    pub workspace: String,
    /// The job that is its last turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<JobId>,
    /// Jobs that are to be its next turns, and have not ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<JobId>,
    /// How many turns it has.
    pub turns: u32,
    /// When the last one was asked: ISO 8601 in UTC with microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    /// The name of the model that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The beginning of the last prompt: one line, at most 80 characters.
    #[serde(default)]
    pub prompt_start: String,
    /// The turn before the first that is there: its job is gone, and what was said before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<JobId>,
    /// Why it cannot be gone on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// Many sessions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionList {
    /// The one last spoken in first.
    pub sessions: Vec<SessionRecord>,
    /// Whether there are more than were sent.
    #[serde(default)]
    pub more: bool,
}

/// What was said in a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// What is known of it.
    #[serde(flatten)]
    pub record: SessionRecord,
    /// Its turns, in their order.
    pub conversation: Vec<TurnRecord>,
}

/// One turn of a session: a job, and what it says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnRecord {
    /// The job.
    pub job: JobId,
    /// What it brought along before the prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// What was asked.
    pub prompt: String,
    /// What was answered.
    pub answer: String,
    /// When it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_at: Option<String>,
    /// The name of the model that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Why the answer ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// Tokens read and generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

impl TurnRecord {
    /// The turn that a job is, with what is known of the job.
    pub fn new(job: JobId, turn: Turn, meta: JobMeta) -> Self {
        let Turn { messages, prompt, answer } = turn;
        let JobMeta { submitted_at, model, finish_reason, usage, .. } = meta;
        Self { job, messages, prompt, answer, submitted_at, model, finish_reason, usage }
    }
}

/// A turn that is no longer part of its session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoneTurn {
    /// The session's name.
    pub session: SessionName,
    /// The job that was its last turn; it stays, as an ordinary job.
    pub job: JobId,
    /// How many turns are left; with none, the session is no more.
    pub turns: u32,
}

/// A session that is no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedSession {
    /// Its name.
    pub session: SessionName,
    /// Its turns whose jobs are gone too.
    #[serde(default)]
    pub jobs: Vec<JobId>,
}

/// A daemon that is ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// Always true.
    pub stopping: bool,
    /// The daemon's process id.
    pub pid: u32,
}
