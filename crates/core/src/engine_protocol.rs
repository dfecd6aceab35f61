//! What the daemon and an engine process say to each other: the plug-in interface.
//!
//! An engine is a program whose standard input is one end of a Unix socket pair. Both directions
//! carry frames ([`crate::FrameCodec`]), one JSON object each. The daemon speaks first
//! ([`Command::Load`]); the engine answers with any number of [`Event::Loading`] and one
//! [`Event::Ready`] or [`Event::LoadFailed`]; then any number of requests run side by side, each
//! ending in exactly one [`Event::Finished`] or [`Event::Failed`]. The end of the stream is the
//! order to exit. `docs/protocol.md` describes it for other languages.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    Failure, FinishReason, Memory, Message, ModelInfo, ModelRef, Parameters, Priority, Timings,
    Usage,
};

/// The version of this protocol; [`Load::v`] carries it.
pub const VERSION: u32 = 1;

/// Variables that an engine process is started with.
///
/// They are read before the program's `main`, so the engine cannot set them itself.
/// `docs/benchmarks.md` has the measurements behind them.
pub const ENGINE_ENVIRONMENT: &[(&str, &str)] = &[
    // ggml starts a debugger to print its backtrace when it aborts.
    ("GGML_NO_BACKTRACE", "1"),
    // How often a thread that waits for the others of a forward pass looks before it sleeps. GNU
    // OpenMP's default of 300,000 keeps a processor busy with waiting, for milliseconds, while
    // the thread that it waits for has none.
    ("GOMP_SPINCOUNT", "4000"),
];

/// What the daemon says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Command {
    /// How much memory would this load take? Comes in place of [`Command::Load`], is answered by
    /// [`Event::Sized`] or [`Event::LoadFailed`], and then the engine exits. One that does not know
    /// the question exits without an answer, and is measured once it is loaded.
    Size(Load),
    /// The first frame.
    Load(Load),
    /// Generate an answer.
    Generate(Box<Generate>),
    /// Stop generating: answered by `finished` with the reason `canceled`, unless it just ended.
    Cancel {
        /// The request.
        id: u64,
    },
    /// Somebody follows the answer from now on ([`Generate::stream`]): what was held of it is sent
    /// at once. Only for an engine whose [`Event::Ready`] says that it knows this.
    Stream {
        /// The request. One that has ended is no error.
        id: u64,
    },
    /// A command from a newer daemon, which is ignored: a daemon sends what is new only to engines
    /// whose [`Event::Ready`] says that they know it.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// What to load, and within which limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// [`VERSION`].
    pub v: u32,
    /// The model.
    pub model: ModelRef,
    /// Limits and tuning.
    #[serde(default)]
    pub options: EngineOptions,
    /// Bytes that it may take in all: where the options leave context and sequences open, the
    /// engine chooses the largest with which it does not take more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Bytes of private memory that the process is meant to need at most. It gets half as many again
    /// and what every process needs, and no more, whatever a model file makes of it. `None` is what
    /// the machine has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Where the engine keeps the cached state of sessions; `None` is nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateDirectory>,
}

impl Load {
    /// To load `model` with these options, and as much memory as it takes.
    pub fn new(model: ModelRef, options: EngineOptions) -> Self {
        Self { v: VERSION, model, options, memory: None, limit: None, state: None }
    }
}

/// A directory for what sessions have cached, which only the daemon and its engines write to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDirectory {
    /// The directory, of mode 0700. A session's file in it is [`state_file`].
    pub path: PathBuf,
    /// The most bytes that its files may have together.
    pub max_bytes: u64,
}

/// Limits and tuning of an engine: `[engine]` in `config.toml`. What is `None` the engine chooses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineOptions {
    /// Cells of the KV cache, for all sequences together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
    /// The most sequences at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequences: Option<u32>,
    /// The most tokens in one forward pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<u32>,
    /// Threads for computing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Whether prompts that begin alike share what was computed; `None` is yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_cache: Option<bool>,
    /// Whether to guess at what comes next and check several guesses at once, where it is
    /// quicker; `None` is yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculation: Option<bool>,
    /// Whether to do so also for requests that are to get the same answer again, where kernels
    /// that round otherwise may change it; `None` is no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculation_greedy: Option<bool>,
    /// Whether an answer is to be the same to the byte whatever else runs, at the cost of
    /// answering one request at a time; `None` is no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deterministic: Option<bool>,
    /// Layers to put on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_layers: Option<u32>,
    /// The dummy's script, for tests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dummy: Option<DummyScript>,
}

impl EngineOptions {
    /// Whether prompts that begin alike are to share what was computed.
    pub fn share_prefixes(&self) -> bool {
        self.prefix_cache != Some(false) && self.deterministic != Some(true)
    }
}

/// What the dummy backend does beside answering: for tests of everything around it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DummyScript {
    /// Milliseconds that loading takes, in ten visible steps.
    pub load_ms: u64,
    /// Loading fails with this message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_error: Option<String>,
    /// Milliseconds that each forward pass takes.
    pub step_ms: u64,
    /// A sequence fails after this many generated tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_after: Option<u32>,
    /// The process aborts, as llama.cpp does, after this many generated tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort_after: Option<u32>,
    /// The answer is this many words instead of the prompt's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<u32>,
    /// After that it says these words over and over, as one token each, and never ends by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loops: Vec<String>,
    /// Every so many-th token that its draft model guesses is wrong; of 1 all are, of 0 none.
    pub draft_wrong: u32,
    /// Bytes that it says its weights take. It takes nothing.
    pub memory_bytes: u64,
    /// Bytes that it says each cell of its cache takes.
    pub cell_bytes: u64,
    /// The answer is to the whole conversation, with who said what, and not to the last prompt.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub transcript: bool,
    /// Milliseconds that making the prompt's text takes, as with a slow chat template.
    pub template_ms: u64,
    /// Making the prompt's text panics where somebody said this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_panic: Option<String>,
    /// Making the prompt's text takes so many bytes of memory.
    pub template_bytes: usize,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// Chosen by the daemon, unique among the running.
    pub id: u64,
    /// What to answer.
    pub input: Input,
    /// How.
    #[serde(default)]
    pub params: Parameters,
    /// Who goes first.
    #[serde(default)]
    pub priority: Priority,
    /// The conversation that this is a turn of, whose cached state is kept where [`Load::state`]
    /// says: 1 to 64 of `A`–`Z`, `a`–`z`, `0`–`9`, `.`, `_` and `-`, the first of them no dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Whether somebody follows the answer as it comes. Where nobody does, its text and its progress
    /// may be held for some hundred milliseconds, so that they share a frame.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub stream: bool,
}

fn yes() -> bool {
    true
}

/// What to answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "InputKeys")]
pub enum Input {
    /// A text to continue, as it is.
    Raw(String),
    /// A conversation, put through the model's chat template.
    Chat(Vec<Message>),
}

/// [`Input`] as it is read: beside the one key that is needed there may be others.
#[derive(Deserialize)]
struct InputKeys {
    raw: Option<String>,
    chat: Option<Vec<Message>>,
}

impl TryFrom<InputKeys> for Input {
    type Error = &'static str;

    fn try_from(InputKeys { raw, chat }: InputKeys) -> Result<Self, Self::Error> {
        match (raw, chat) {
            (Some(text), None) => Ok(Self::Raw(text)),
            (None, Some(messages)) => Ok(Self::Chat(messages)),
            (Some(_), Some(_)) => Err("`input` has both `raw` and `chat`"),
            (None, None) => Err("`input` has neither `raw` nor `chat`"),
        }
    }
}

/// The name of the file that a session's cached state is kept in; `None` where that is no name of a
/// session ([`Generate::session`]).
pub fn state_file(session: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let named = (1..=64).contains(&session.len())
        && !session.starts_with('.')
        && session.bytes().all(allowed);
    named.then(|| format!("{session}.state"))
}

/// What the engine says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// What loading would take, told without loading.
    Sized {
        /// With the context and the sequences that were asked for, or the usual ones.
        wanted: Memory,
        /// With the smallest that are of use, where they were left open.
        least: Memory,
    },
    /// Loading goes on.
    Loading {
        /// From 0 to 1.
        fraction: f32,
    },
    /// The model is loaded.
    Ready {
        /// What was loaded.
        model: Box<ModelInfo>,
        /// How the engine was built and runs: for `status` and `doctor`.
        engine: EngineInfo,
        /// Whether it knows [`Command::Stream`].
        #[serde(default)]
        stream: bool,
    },
    /// The model cannot be loaded; the engine exits.
    LoadFailed {
        /// Why.
        failure: Failure,
    },
    /// A prompt is being read.
    Prefill {
        /// The request.
        id: u64,
        /// Tokens read.
        done: u32,
        /// Tokens to read.
        total: u32,
    },
    /// More of an answer, in whole characters.
    Text {
        /// The request.
        id: u64,
        /// The text.
        text: String,
    },
    /// An answer is complete.
    Finished {
        /// The request.
        id: u64,
        /// Why it ended.
        finish_reason: FinishReason,
        /// Tokens.
        usage: Usage,
        /// The engine's part of the timings.
        timings: Timings,
    },
    /// A request cannot be answered; the engine goes on.
    Failed {
        /// The request.
        id: u64,
        /// Why.
        failure: Failure,
    },
    /// An event from a newer engine. It tells nothing that this daemon needs, and is ignored.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// How an engine was built and runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineInfo {
    /// The engine's version.
    pub version: String,
    /// What its CPU code was built for: `portable`, `native`, …
    pub build: String,
    /// What llama.cpp says of the machine (`llama_print_system_info`); empty for the dummy.
    pub system_info: String,
    /// Threads used for computing.
    pub threads: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_before_say_that_answers_are_streamed_and_cannot_be_asked_to_be() {
        let before = r#"{"id":1,"input":{"raw":"Hi"}}"#;
        let generate: Generate = serde_json::from_str(before).unwrap();
        assert!(generate.stream);
        let written = |stream| {
            serde_json::to_value(Generate { stream, ..generate.clone() }).unwrap()["stream"].clone()
        };
        assert_eq!((written(true), written(false)), (serde_json::Value::Null, false.into()));
        let ready =
            Event::Ready { model: Box::default(), engine: EngineInfo::default(), stream: true };
        let mut ready = serde_json::to_value(ready).unwrap();
        ready.as_object_mut().unwrap().remove("stream");
        let ready: Event = serde_json::from_value(ready).unwrap();
        assert!(matches!(ready, Event::Ready { stream: false, .. }));
    }

    #[test]
    fn a_session_is_named_so_that_its_file_lies_in_the_directory() {
        for (session, file) in [("a", "a.state"), ("B.2_c-", "B.2_c-.state"), ("-", "-.state")] {
            assert_eq!(state_file(session).as_deref(), Some(file));
        }
        let long = "a".repeat(65);
        for session in ["", ".", "..", ".a", "a/b", "a b", "ä", "a\0", &long] {
            assert_eq!(state_file(session), None, "{session:?}");
        }
    }
}
