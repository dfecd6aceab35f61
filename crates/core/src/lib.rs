//! The vocabulary and the decisions of ThreadRunner.
//!
//! The vocabulary is everything that two processes must agree on: job ids ([`JobId`]) and what else
//! a text may stand for ([`JobSelector`], [`WorkspaceName`], [`SessionName`], [`CacheName`],
//! [`Timestamp`], [`ModelId`]), what a job is ([`JobSpec`]), the states it passes through
//! ([`JobState`]) and how it ends ([`JobOutcome`]), what is said and answered ([`Message`],
//! [`Content`], [`Output`]), the frames on the wires
//! ([`FrameCodec`], [`protocol`], [`engine_protocol`]), how words on them stay readable for older
//! and newer programs ([`mod@open_enum`]), how things fail ([`Failure`], [`ErrorCode`],
//! [`ExitCode`]), and what an inference backend must provide ([`ModelBackend`]). [`template`] reads
//! a prompt's references to other jobs' answers.
//!
//! Two modules decide: [`scheduler`] plans the forward passes, and [`text`] says which part of an
//! answer can be shown.
//!
//! Nothing here waits, or reads a clock, a file, a socket or an environment variable: time and
//! bytes come in as arguments, so all of it is tested without a runtime. The crate depends on no
//! other of the project.
//!
//! Tests are in each module, and those of the scheduler in `scheduler/tests`. `tests/wires.rs`
//! reads `tests/golden`: lines as they are written on each wire and on disk.

mod amount;
mod answer;
mod backend;
mod cache_name;
mod content;
pub mod engine_protocol;
mod error;
pub mod fnv;
mod frame;
mod id;
mod job;
mod job_selector;
mod job_status;
mod keep_alive;
mod message;
mod model;
pub mod open_enum;
mod output;
mod params;
mod priority;
pub mod protocol;
pub mod scheduler;
mod session;
mod tagged;
pub mod template;
pub mod text;
mod timestamp;
mod tool;
mod workspace_name;

pub use amount::{InvalidDuration, InvalidSize, duration_of_seconds, parse_duration, parse_size};
pub use answer::{FinishReason, Timings, Usage};
pub use backend::{
    BackendError, Draft, DraftRequest, Drafted, Feed, Interrupt, Memory, ModelBackend, ModelInfo,
    Plan, PrefixCache, Sampled, SeqId, TokenId,
};
pub use cache_name::CacheName;
pub use content::{Content, Image, Part};
pub use error::{ErrorCode, ErrorType, ExitCode, Failure};
pub use frame::{FrameCodec, FrameError, MAX_FRAME_BYTES, decode_frame, encode_frame, json_length};
pub use id::{InvalidJobId, JobId, JobIdSource};
pub use job::{HookOutcome, JobMeta, JobSpec, JobState, JobType, SPEC_VERSION};
pub use job_selector::JobSelector;
pub use job_status::{JobOutcome, JobStatus};
pub use keep_alive::{InvalidKeepAlive, KeepAlive};
pub use message::{InputKind, Message, More, Role, needs};
pub use model::{BackendKind, ModelDigest, ModelId, ModelRef};
pub use output::{Output, OutputKind, kinds_of};
pub use params::{InvalidParameter, ParameterKind, ParameterOption, Parameters};
pub use priority::Priority;
pub use session::{
    InvalidSessionName, SESSION_VERSION, SessionFile, SessionName, Turn, TurnStanding,
};
pub use timestamp::{Timestamp, micros_since_epoch};
pub use tool::{FunctionCall, Tool, ToolCall};
pub use workspace_name::WorkspaceName;
