//! The engine process: one loaded model, one forward pass for everybody.
//!
//! An engine is started by the daemon with one end of a socket pair as its standard input, and
//! speaks [`threadrunner_core::engine_protocol`] over it. Three threads:
//!
//! - the reader ([`input`]) cuts commands out of the stream. When the stream ends it ends the
//!   process, whatever the other is doing: loading a model and a forward pass cannot be waited for.
//!   Only where conversations are to be saved ([`state`]) the other gets some seconds to do so.
//! - the main thread loads the model ([`backends`]) and runs the loop ([`engine`]): take commands
//!   in, let the scheduler plan, let the backend compute, tell what came of it. With nothing to do
//!   it sleeps until a command comes.
//! - the watch ([`watch`]) ends the process where a template, the tokenizer or a forward pass takes
//!   longer than it may.
//!
//! Between the first command and the second thread stands the fence (`fence`): what a model file
//! may make of the process is no more than answering needs.
//!
//! A backend that crashes takes nothing else with it: that is why this is a process.

pub mod backends;
mod caught;
pub mod coalesce;
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
