//! The protocol between the daemon and an engine process: the interface for backends in any
//! language.
//!
//! An engine is a program whose standard input is one end of a Unix socket pair, which carries
//! frames ([`crate::FrameCodec`]) in both directions, one JSON object each. The daemon sends
//! [`Command`]s, the engine sends [`Event`]s.
//!
//! The daemon speaks first, with [`Command::Load`]. The engine sends any number of
//! [`Event::Loading`] and one [`Event::Ready`] or [`Event::LoadFailed`]. Then any number of
//! requests run concurrently, each ending in exactly one [`Event::Finished`] or [`Event::Failed`].
//! The end of the stream tells the engine to exit. `docs/protocol.md` describes the protocol for
//! authors of engines.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize, Serializer};

use crate::open_enum::all_known;
use crate::{
    CacheName, Failure, FinishReason, InputKind, Memory, Message, ModelInfo, ModelRef, Output,
    Parameters, Priority, Timings, Tool, Usage,
};

/// The version of this protocol; [`Load::v`] carries it.
pub const VERSION: u32 = 1;

/// Environment variables that an engine process is started with.
///
/// They are read before the program's `main`, so the engine cannot set them itself.
/// `docs/benchmarks.md` has the measurements behind them.
pub const ENGINE_ENVIRONMENT: &[(&str, &str)] = &[
    // Otherwise, ggml starts a debugger to print a backtrace when it aborts.
    ("GGML_NO_BACKTRACE", "1"),
    // How often a thread that waits for others in a forward pass polls before it sleeps. With GNU
    // OpenMP's default of 300,000, it keeps a processor busy for milliseconds, even if the thread
    // that it waits for has none.
    ("GOMP_SPINCOUNT", "4000"),
];

/// Identifies a request of the daemon to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EngineRequestId(pub u64);

impl fmt::Display for EngineRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A command from the daemon. The key `"op"` names the variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Command {
    /// Asks how much memory this load would take. Comes in place of [`Command::Load`]; the engine
    /// answers with [`Event::Sized`] or [`Event::LoadFailed`] and exits. An engine that does not
    /// know this command exits without an answer, and is measured once it is loaded.
    Size(Load),
    /// Loads a model. The first frame.
    Load(Load),
    /// Generates an answer.
    Generate(Box<Generate>),
    /// Stops generating. Answered by [`Event::Finished`] with [`FinishReason::Canceled`], unless
    /// the request has just ended.
    Cancel {
        /// The request.
        id: EngineRequestId,
    },
    /// A client follows the answer from now on ([`Generate::stream`]), so the engine sends what it
    /// holds of it at once. Only for an engine whose [`Event::Ready`] says that it knows this
    /// command.
    Stream {
        /// The request. Ignored if it has ended.
        id: EngineRequestId,
    },
    /// A command that this version does not know, which is ignored. A daemon sends new commands
    /// only to engines whose [`Event::Ready`] says that they know them.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// A model to load, and the limits within which to load it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// [`VERSION`].
    pub v: u32,
    /// The model.
    pub model: ModelRef,
    /// Limits and tuning.
    #[serde(default)]
    pub options: EngineOptions,
    /// The maximum memory to take in total, in bytes. The engine chooses the largest context and
    /// number of sequences that fit, unless the options set them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// The private memory that the process is expected to need at most, in bytes. It may take half
    /// as much again, plus what every process needs, and no more, whatever a model file makes it
    /// do. `None` limits it to the machine's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Where the engine saves the cached state of sessions; `None` saves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateDirectory>,
}

impl Load {
    /// A load of `model` with these options, without limits on memory.
    pub fn new(model: ModelRef, options: EngineOptions) -> Self {
        Self { v: VERSION, model, options, memory: None, limit: None, state: None }
    }
}

/// The maximum number of files that an engine keeps in a [`StateDirectory`].
pub const MOST_STATES: usize = 4096;

/// A directory for the cached state of sessions. Only the daemon and its engines write to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDirectory {
    /// The directory, with mode 0700. It has a file for each session, named by [`CacheName`].
    pub path: PathBuf,
    /// The maximum size of its files together, in bytes.
    pub max_bytes: u64,
}

/// Limits and tuning of an engine: `[engine]` in `config.toml`. `None` lets the engine choose.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineOptions {
    /// Cells of the KV cache, for all sequences together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
    /// The maximum number of sequences at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequences: Option<u32>,
    /// The maximum number of tokens in a forward pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<u32>,
    /// The number of compute threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Whether to compute common prefixes of prompts only once; `None` is yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_cache: Option<bool>,
    /// Whether to guess the next tokens and check several guesses in one forward pass, when that is
    /// faster; `None` is yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculation: Option<bool>,
    /// Whether to guess even for requests whose answers should be repeatable
    /// ([`Parameters::repeatable`]), although wider forward passes may round differently and change
    /// them. `None` is no, except for greedy requests without a seed if there is a draft model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculation_greedy: Option<bool>,
    /// Whether an answer is the same to the byte whatever else runs, at the cost of answering one
    /// request at a time; `None` is no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deterministic: Option<bool>,
    /// The number of layers to put on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_layers: Option<u32>,
    /// The dummy's script, for tests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dummy: Option<DummyScript>,
}

impl EngineOptions {
    /// Whether to compute common prefixes of prompts only once: not if that is disabled, nor if
    /// answers must be deterministic.
    pub fn share_prefixes(&self) -> bool {
        self.prefix_cache != Some(false) && self.deterministic != Some(true)
    }
}

/// What the dummy backend does besides answering, to test everything around it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DummyScript {
    /// How long loading takes, in milliseconds. It reports ten steps.
    pub load_ms: u64,
    /// Loading fails with this message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_error: Option<String>,
    /// How long each forward pass takes, in milliseconds.
    pub step_ms: u64,
    /// A sequence fails after this many generated tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_after: Option<u32>,
    /// The process aborts, as llama.cpp does, after this many generated tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort_after: Option<u32>,
    /// The answer has this many words, instead of those of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<u32>,
    /// After its words, the answer repeats these, one token each, and never ends by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loops: Vec<String>,
    /// Every n-th token that its draft model guesses is wrong: with 1 all are, with 0 none.
    pub draft_wrong: u32,
    /// How much memory its weights claim to take, in bytes. They take none.
    pub memory_bytes: u64,
    /// How much memory each cell of its cache claims to take, in bytes.
    pub cell_bytes: u64,
    /// The kinds of input that it takes beside text. Its answer names tools and kinds of parts.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "all_known")]
    pub inputs: Vec<InputKind>,
    /// Answers the whole conversation, with roles, instead of the last prompt.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub transcript: bool,
    /// How long rendering a conversation takes, in milliseconds, as with a slow chat template.
    pub template_ms: u64,
    /// Rendering a conversation panics if a message contains this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_panic: Option<String>,
    /// How much memory rendering a conversation takes, in bytes.
    pub template_bytes: usize,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// Chosen by the daemon; unique among the running requests.
    pub id: EngineRequestId,
    /// What to answer.
    pub input: Input,
    /// How to generate the answer.
    #[serde(default)]
    pub params: Parameters,
    /// Its priority.
    #[serde(default)]
    pub priority: Priority,
    /// The conversation of which this is a turn, for saving its cached state ([`Load::state`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<CacheName>,
    /// Whether a client follows the answer as it comes. If not, the engine may hold its text and
    /// progress for a few hundred milliseconds, so that they share a frame.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub stream: bool,
}

fn yes() -> bool {
    true
}

/// What to answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "InputKeys")]
pub enum Input {
    /// Text to continue as it is.
    Raw(String),
    /// A conversation, for the model's chat template.
    ///
    /// A daemon sends messages with more than text, and tools, only to engines whose
    /// [`Event::Ready`] says that the model takes them ([`ModelInfo::inputs`]).
    Chat {
        /// The messages.
        messages: Vec<Message>,
        /// The tools that the model can call.
        tools: Vec<Tool>,
    },
}

impl Input {
    /// A conversation without tools.
    pub fn chat(messages: Vec<Message>) -> Self {
        Self::Chat { messages, tools: Vec::new() }
    }

    /// Whether it says nothing to answer.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Raw(text) => text.is_empty(),
            Self::Chat { messages, .. } => messages.iter().all(Message::is_empty),
        }
    }
}

impl Serialize for Input {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        /// [`Input`] as it is written.
        #[derive(Default, Serialize)]
        struct Written<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            raw: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            chat: Option<&'a [Message]>,
            #[serde(skip_serializing_if = "<[Tool]>::is_empty")]
            tools: &'a [Tool],
        }
        match self {
            Self::Raw(text) => Written { raw: Some(text), ..Written::default() },
            Self::Chat { messages, tools } => Written { raw: None, chat: Some(messages), tools },
        }
        .serialize(to)
    }
}

/// [`Input`] as it is read: unknown keys beside the required one are ignored.
#[derive(Deserialize)]
struct InputKeys {
    raw: Option<String>,
    chat: Option<Vec<Message>>,
    #[serde(default)]
    tools: Vec<Tool>,
}

impl TryFrom<InputKeys> for Input {
    type Error = &'static str;

    fn try_from(InputKeys { raw, chat, tools }: InputKeys) -> Result<Self, Self::Error> {
        match (raw, chat) {
            (Some(text), None) => Ok(Self::Raw(text)),
            (None, Some(messages)) => Ok(Self::Chat { messages, tools }),
            (Some(_), Some(_)) => Err("`input` has both `raw` and `chat`"),
            (None, None) => Err("`input` has neither `raw` nor `chat`"),
        }
    }
}

/// An event from the engine. The key `"event"` names the variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// How much memory loading would take.
    Sized {
        /// With the requested context and number of sequences, or the defaults.
        wanted: Memory,
        /// With the smallest useful ones, unless they were requested.
        least: Memory,
    },
    /// Loading makes progress.
    Loading {
        /// The progress, from 0 to 1.
        fraction: f32,
    },
    /// The model is loaded.
    Ready {
        /// The model.
        model: Box<ModelInfo>,
        /// How the engine was built and runs, for `status` and `doctor`.
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
        id: EngineRequestId,
        /// The number of tokens read so far.
        done: u32,
        /// The number of tokens in the prompt.
        total: u32,
    },
    /// More of an answer, in whole characters.
    Text {
        /// The request.
        id: EngineRequestId,
        /// The text.
        text: String,
    },
    /// A piece of an answer that is not its text, of a kind that [`ModelInfo::outputs`] has.
    Output {
        /// The request.
        id: EngineRequestId,
        /// The output.
        output: Output,
    },
    /// An answer is complete.
    Finished {
        /// The request.
        id: EngineRequestId,
        /// Why it ended.
        finish_reason: FinishReason,
        /// How many tokens were read and generated.
        usage: Usage,
        /// The engine's part of the timings.
        timings: Timings,
    },
    /// A request cannot be answered; the engine continues.
    Failed {
        /// The request.
        id: EngineRequestId,
        /// Why.
        failure: Failure,
    },
    /// An event that this version does not know, which is ignored.
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
    /// llama.cpp's description of the machine (`llama_print_system_info`); empty for the dummy.
    pub system_info: String,
    /// The number of compute threads.
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
}
