//! A job: what was submitted, its state, and how it ended.
//!
//! [`JobSpec`] is the content of `job.json`, [`JobMeta`] of `meta.json`, and [`HookOutcome`] of
//! `on_done.json`. The directory that a job is in is its [`JobState`].

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::message::known_messages;
use crate::model::known_model;
use crate::open_enum::{known, open_enum};
use crate::tool::known_tools;
use crate::{
    FinishReason, JobId, JobOutcome, JobStatus, KeepAlive, Message, ModelDigest, ModelId, ModelRef,
    Parameters, Priority, SessionName, Timestamp, Timings, Tool, Usage,
};

/// The version of `job.json` that this program writes. Newer versions are refused, never guessed
/// at.
pub const SPEC_VERSION: u32 = 1;

/// The state of a job: the directory that it is in. At every instant, it is in exactly one.
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
    /// All states, in the order in which a job passes through them.
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

    /// Whether a job may move from this state to `next`. Each move is one `rename`.
    pub fn may_become(self, next: Self) -> bool {
        match (self, next) {
            // Submitted, claimed, finished.
            (Self::Writing, Self::Ready)
            | (Self::Ready, Self::Processing)
            | (Self::Processing, Self::Done) => true,
            // Failed or canceled while running; canceled or malformed while queued.
            (Self::Processing | Self::Ready, Self::Failed) => true,
            // Queued again: the daemon stopped, the attempt may be repeated, or `retry`.
            (Self::Processing | Self::Failed, Self::Ready) => true,
            _ => false,
        }
    }

    /// Whether a job in this state has ended.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }

    /// The [`JobStatus`] of a job in this state, as a word. A canceled job counts as failed.
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
    /// The kind of answer that a job asks for: the content of `type.txt`.
    #[derive(Default)]
    pub enum JobType {
        /// Text.
        #[default]
        Text = "text",
        /// A vector.
        Embed = "embed",
        /// Text about images.
        Vision = "vision",
        /// Speech.
        Tts = "tts",
        /// The transcript of a recording.
        Stt = "stt",
    }
}

/// Everything that was submitted except the prompt, which is in `prompt.txt`.
///
/// This is the content of `job.json`. A job without that file has [`JobSpec::default`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobSpec {
    /// The format's version: [`SPEC_VERSION`].
    pub v: u32,
    /// The model; `None` is the daemon's default when the job runs.
    #[serde(deserialize_with = "known_model", skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
    /// Instructions, put before the prompt as a system message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// A conversation that precedes the prompt, which may then be empty.
    #[serde(deserialize_with = "known_messages", skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// The tools that the model can call.
    #[serde(deserialize_with = "known_tools", skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// Sends the prompt to the model as it is, without its chat template.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
    /// How to generate the answer.
    #[serde(flatten)]
    pub params: Parameters,
    /// Whether the job is canceled when its client goes away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub attached: bool,
    /// The priority.
    #[serde(deserialize_with = "known")]
    pub priority: Priority,
    /// Seconds from submission to the deadline; `None` sets no deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<f64>,
    /// The maximum number of attempts before the job fails; `None` is the daemon's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// How long the model stays loaded afterwards; `None` is as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// Jobs that must be done before this one begins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<JobId>,
    /// Begins when the jobs in `after` have ended, even if some failed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub after_any: bool,
    /// Replaces references to other jobs' answers ([`crate::template`]) in the prompt, the system
    /// message and the messages when the job begins. `after` contains these jobs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub template: bool,
    /// Looks for references only in this many bytes at the start of the prompt, because the rest
    /// comes from other sources; `None` is all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_bytes: Option<u64>,
    /// A program to run, without a shell, when the job has ended. Its argument is the job's
    /// directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_done: Option<PathBuf>,
    /// The session of which the job is a turn. Earlier turns are not stored here: they are looked
    /// up when the job begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionName>,
    /// The turn that this one replaces, which must be the session's last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<JobId>,
    /// The number of attempts begun. Counted before each one runs.
    pub attempts: u32,
}

impl Default for JobSpec {
    fn default() -> Self {
        Self {
            v: SPEC_VERSION,
            model: None,
            system: None,
            messages: Vec::new(),
            tools: Vec::new(),
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

/// The content of `meta.json`. Its first keys are those of nrvna-ai.
///
/// Unknown keys are kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobMeta {
    /// When the job was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_at: Option<Timestamp>,
    /// The kind of answer that was asked for.
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
    pub completed_at: Option<Timestamp>,
    /// Seconds from the start of the last attempt to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<f64>,
    /// Names of the files that the job produced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<String>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<JobOutcome>,
    /// The name of the model that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The digest of that model, if it was loaded and has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_digest: Option<ModelDigest>,
    /// Why generation ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// How many tokens were read and generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Where the time went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<crate::Failure>,
    /// Keys that other programs wrote.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl JobMeta {
    /// Records which model answered.
    pub fn set_model(&mut self, model: ModelId) {
        self.model = Some(model.name);
        self.model_digest = model.digest;
    }

    /// Reads a `meta.json`, whichever program wrote it; `None` if it is not an object. Drops values
    /// that do not fit their keys, and keeps the others.
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

/// The outcome of a hook, the program run when a job has ended: the content of `on_done.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HookOutcome {
    /// The program.
    pub program: PathBuf,
    /// When it was started.
    pub started_at: Timestamp,
    /// How long it ran, in seconds.
    pub duration_s: f64,
    /// Its exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether it was killed after `hook_timeout`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
    /// Why it could not be run: a string, while other errors are objects.
    #[serde(default, rename = "reason", skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
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
            submitted_at: Some("2026-01-01T00:00:00Z".into()),
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
