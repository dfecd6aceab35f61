//! A job: what is asked, where it stands, how it ended.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::open_enum::{OpenEnum, known, open_enum};
use crate::{JobId, JobStatus, KeepAlive, Parameters, SessionName};

/// The version of `job.json` that this program writes. A newer one is refused, never guessed.
pub const SPEC_VERSION: u32 = 1;

/// Where a job stands. Its directory is in exactly one of these places, at every instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// `input/writing/`: being written, not yet a job.
    Writing,
    /// `input/ready/`: queued.
    Ready,
    /// `processing/`: running.
    Processing,
    /// `output/`: done.
    Done,
    /// `failed/`: failed or canceled.
    Failed,
}

impl JobState {
    /// Every state, in the order a job passes through them.
    pub const ALL: [Self; 5] =
        [Self::Writing, Self::Ready, Self::Processing, Self::Done, Self::Failed];

    /// The state's directory, relative to the workspace.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Writing => "input/writing",
            Self::Ready => "input/ready",
            Self::Processing => "processing",
            Self::Done => "output",
            Self::Failed => "failed",
        }
    }

    /// The table of legal moves: each is one `rename`.
    pub fn may_become(self, next: Self) -> bool {
        match (self, next) {
            // submitted; claimed; finished
            (Self::Writing, Self::Ready)
            | (Self::Ready, Self::Processing)
            | (Self::Processing, Self::Done) => true,
            // failed or canceled while running, canceled or malformed while queued
            (Self::Processing | Self::Ready, Self::Failed) => true,
            // released: the daemon ended, or the attempt may be repeated; and `retry`
            (Self::Processing | Self::Failed, Self::Ready) => true,
            _ => false,
        }
    }

    /// Whether a job in this state will not move by itself any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }

    /// What is said of a job there.
    pub fn as_str(self) -> &'static str {
        JobStatus::of(self, None).as_str()
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

open_enum! {
    /// The kind of answer a job asks for: the content of `type.txt`.
    #[derive(Default)]
    pub enum JobType {
        /// A text.
        #[default]
        Text = "text",
        /// A vector.
        Embed = "embed",
        /// A text about images.
        Vision = "vision",
        /// Speech.
        Tts = "tts",
        /// The transcript of a recording.
        Stt = "stt",
    }
}

open_enum! {
    /// Which backend runs a model.
    pub enum BackendKind {
        /// llama.cpp, for GGUF files.
        Llama = "llama",
        /// No model: answers with the words of the prompt. For tests and CI.
        Dummy = "dummy",
    }
}

/// A model, resolved: what an engine process is started with, and what tells two engines apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelRef {
    /// The backend.
    pub backend: BackendKind,
    /// The absolute path of the model file; `None` for the dummy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The absolute path of the file of its draft model, which guesses what it will say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<PathBuf>,
}

impl ModelRef {
    /// The name a person knows it by: the file's stem, or the backend's name.
    pub fn name(&self) -> String {
        self.path.as_deref().and_then(stem).unwrap_or_else(|| self.backend.as_str().to_owned())
    }

    /// Whether it is the same model as `asked`, with the same draft model if that names one.
    pub fn is_as_asked(&self, asked: &Self) -> bool {
        let same_draft = asked.draft.is_none() || self.draft == asked.draft;
        (self.backend, &self.path) == (asked.backend, &asked.path) && same_draft
    }

    /// The name of its draft model.
    pub fn draft_name(&self) -> Option<String> {
        self.draft.as_deref().and_then(stem)
    }
}

fn stem(path: &Path) -> Option<String> {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned())
}

open_enum! {
    /// Who speaks in a conversation.
    pub enum Role {
        /// Instructions.
        System = "system",
        /// The person.
        User = "user",
        /// The model.
        Assistant = "assistant",
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// Reads a conversation that is to be answered: a role that means nothing here cannot be.
pub(crate) fn known_roles<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Message>, D::Error> {
    #[derive(Deserialize)]
    struct Known {
        #[serde(deserialize_with = "known")]
        role: Role,
        content: String,
    }
    let messages = Vec::<Known>::deserialize(from)?;
    Ok(messages.into_iter().map(|Known { role, content }| Message { role, content }).collect())
}

/// Who goes first. Waiting raises a job's rank, so none waits forever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Thousands of prompts overnight.
    Batch,
    /// A detached job. Also any word from a newer program: a priority only orders jobs.
    #[default]
    Normal,
    /// A person is waiting.
    Interactive,
}

impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let word = String::deserialize(from)?;
        let known = Self::WORDS.iter().find(|(_, known)| *known == word);
        Ok(known.map_or(Self::Normal, |(value, _)| *value))
    }
}

impl OpenEnum for Priority {
    const WORDS: &'static [(Self, &'static str)] =
        &[(Self::Batch, "batch"), (Self::Normal, "normal"), (Self::Interactive, "interactive")];
}

/// Everything that is asked of a job but the prompt's bytes, which are `prompt.txt`.
///
/// This is the content of `job.json`. A job without that file has [`JobSpec::default`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobSpec {
    /// The format's version: [`SPEC_VERSION`].
    pub v: u32,
    /// The model; `None` is the daemon's default at the time the job runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
    /// Instructions, put before the prompt as a system message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// A conversation that goes before the prompt (which may then be empty).
    #[serde(deserialize_with = "known_roles", skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// The prompt goes to the model as it is, without a chat template.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
    /// How the answer is generated.
    #[serde(flatten)]
    pub params: Parameters,
    /// Whether a client waits at the other end, whose going away cancels the job.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub attached: bool,
    /// Who goes first.
    #[serde(deserialize_with = "known")]
    pub priority: Priority,
    /// Seconds from submission to the deadline; `None` is no deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<f64>,
    /// How often the job is begun before it fails; `None` is the daemon's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// How long the model stays loaded after this; `None` is as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// Jobs that must end before this one begins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<JobId>,
    /// Whether a failure among `after` is no reason to fail.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub after_any: bool,
    /// Whether references to other jobs' answers ([`crate::template`]) in the prompt, the system
    /// message and the messages are replaced when the job begins. The jobs are among `after`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub template: bool,
    /// Of the prompt, only the first so many bytes are read for references: what follows was not
    /// written by whoever submitted the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_bytes: Option<u64>,
    /// A program run without a shell when the job has ended, with its directory as argument.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_done: Option<PathBuf>,
    /// The conversation that the job is a turn of. What was said before it is not here: it follows
    /// from the session when the job begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionName>,
    /// The turn that this one takes the place of, which must be the session's last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<JobId>,
    /// How often the job was begun. Counted before it runs.
    pub attempts: u32,
}

impl Default for JobSpec {
    fn default() -> Self {
        Self {
            v: SPEC_VERSION,
            model: None,
            system: None,
            messages: Vec::new(),
            raw: false,
            params: Parameters::default(),
            attached: false,
            priority: Priority::default(),
            timeout_s: None,
            max_attempts: None,
            keep_alive: None,
            after: Vec::new(),
            after_any: false,
            template: false,
            template_bytes: None,
            on_done: None,
            session: None,
            replaces: None,
            attempts: 0,
        }
    }
}

/// The content of `meta.json`, whose first keys are nrvna-ai's.
///
/// Times are ISO 8601 in UTC with microseconds. Keys that this program does not know are kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobMeta {
    /// When the job was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_at: Option<String>,
    /// What kind of answer was asked for.
    #[serde(default)]
    pub mode: JobType,
    /// The job that this one follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
    /// Seconds from the start of the last attempt to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<f64>,
    /// Names of the files that the job made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<String>,
    /// `done`, `failed` or `canceled`, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The name of the model that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Why generation ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// Tokens read and generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Where the time went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<crate::Failure>,
    /// What other programs wrote.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl JobMeta {
    /// What a `meta.json` says, whoever wrote it; `None` where it is not an object. A value that
    /// cannot be what its key means is left out, and costs no other.
    pub fn read(json: &[u8]) -> Option<Self> {
        if let Ok(meta) = serde_json::from_slice(json) {
            return Some(meta);
        }
        let mut values: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(json).ok()?;
        values.retain(|key, value| {
            let alone = serde_json::Map::from_iter([(key.clone(), value.clone())]);
            serde_json::from_value::<Self>(alone.into()).is_ok()
        });
        serde_json::from_value(values.into()).ok()
    }
}

/// How the program went that was run when a job had ended: the content of `on_done.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HookOutcome {
    /// The program.
    pub program: PathBuf,
    /// When it was started: ISO 8601 in UTC with microseconds.
    pub started_at: String,
    /// Seconds that it ran.
    pub duration_s: f64,
    /// Its exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether it was killed because its time was over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
    /// Why it could not be run. Other errors are objects; this is only a text.
    #[serde(default, rename = "reason", skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

open_enum! {
    /// Why generation ended.
    pub enum FinishReason {
        /// The model ended its turn, or produced a stop text.
        Stop = "stop",
        /// It reached `max_tokens` or the end of the context.
        Length = "length",
        /// It did nothing but repeat itself for `repeat_limit` tokens.
        Repetition = "repetition",
        /// It was canceled.
        Canceled = "canceled",
    }
}

/// Tokens of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, template included.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
    /// Tokens of the prompt that were in the KV cache already and were not computed.
    #[serde(default)]
    pub cached_tokens: u32,
    /// How many of these were read from a session's saved state.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restored_tokens: u32,
}

/// Where the time of one request went, in milliseconds, measured by the process that spent it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// From submission to the engine: queueing and loading, measured by the daemon.
    #[serde(default)]
    pub queue_ms: f64,
    /// Of that, waiting for the model to load.
    #[serde(default)]
    pub load_ms: f64,
    /// From the engine's receipt to the first generated token.
    pub prefill_ms: f64,
    /// From the first generated token to the last.
    pub decode_ms: f64,
    /// From submission to the end, measured by the daemon.
    #[serde(default)]
    pub total_ms: f64,
    /// Tokens of the answer that were guessed at.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drafted: u32,
    /// Of these, those that came true.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub accepted: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_job_moves_only_by_retry() {
        for next in JobState::ALL {
            assert!(!JobState::Done.may_become(next));
            assert_eq!(JobState::Failed.may_become(next), next == JobState::Ready);
        }
    }

    #[test]
    fn nothing_becomes_writing_or_itself() {
        for state in JobState::ALL {
            assert!(!state.may_become(JobState::Writing));
            assert!(!state.may_become(state));
        }
    }

    #[test]
    fn an_empty_job_json_is_the_default_job() {
        assert_eq!(serde_json::from_str::<JobSpec>("{}").unwrap(), JobSpec::default());
    }

    #[test]
    fn a_value_that_means_nothing_costs_no_other() {
        let text = r#"{"mode":"dance","tags":["a"],"parent":"","duration_s":"long","mood":"good",
            "submitted_at":"2026-01-01T00:00:00Z","error":"no luck","tags":["b"]}"#;
        let meta = JobMeta::read(text.as_bytes()).unwrap();
        let expected = JobMeta {
            mode: JobType::Unknown,
            tags: vec!["b".to_owned()],
            submitted_at: Some("2026-01-01T00:00:00Z".to_owned()),
            other: [("mood".to_owned(), "good".into())].into_iter().collect(),
            ..JobMeta::default()
        };
        assert_eq!(meta, expected);
        assert_eq!(JobMeta::read(b"[1]"), None);
        assert_eq!(JobMeta::read(b"{"), None);
    }

    #[test]
    fn every_type_is_written_as_it_is_called() {
        for kind in JobType::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn what_others_wrote_into_meta_json_is_kept() {
        let text = r#"{"submitted_at":"2026-01-01T00:00:00.000000Z","mode":"text","mood":"good"}"#;
        let meta: JobMeta = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&meta).unwrap(), text);
    }
}
