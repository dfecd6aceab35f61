//! The engine process: one loaded model whose forward passes serve every request.
//!
//! The daemon starts an engine with one end of a socket pair as its standard input and speaks
//! [`threadrunner_core::engine_protocol`] with it. Three threads run:
//!
//! - The main thread loads the model ([`backends`]) and runs the loop ([`engine`]): it takes in
//!   commands, has the scheduler plan a forward pass, has the backend compute it, and sends the
//!   outcome as events. When idle, it sleeps until the next command.
//! - The reader ([`input`]) decodes commands from the stream. When the stream ends, it ends the
//!   process without waiting for a load or a forward pass in progress. Only if conversations have
//!   unsaved state ([`state`]) does it give the main thread a few seconds to save it.
//! - The watch ([`watch`]) ends the process if a template, the tokenizer or a forward pass exceeds
//!   its time limit.
//!
//! Between the first command and the start of the second thread, the process fences itself in
//! (`fence`): whatever a model file makes it do, it keeps only the rights that answering needs.
//!
//! The engine is a process of its own so that a crash of the backend takes nothing else down. It
//! knows no job, queue, workspace or client, only requests by number. Of the programs it alone
//! knows llama.cpp, in the module `llama` behind the feature of that name; [`dummy`] is the backend
//! without a model, for tests.
//!
//! Tests are in each module. `tests/process.rs` drives the process as the daemon does,
//! `tests/fence.rs` looks from inside the fence, and `tests/llama` drives llama.cpp on real models.

pub mod backends;
mod caught;
pub mod coalesce;
pub mod digest;
mod draft;
pub mod dummy;
pub mod engine;
pub mod estimate;
mod fence;
pub mod gguf;
pub mod input;
#[cfg(feature = "llama")]
pub mod llama;
mod machine;
pub mod output;
pub mod pass_times;
pub mod process;
pub mod program;
pub mod self_test;
pub mod serve;
pub mod state;
pub mod watch;
