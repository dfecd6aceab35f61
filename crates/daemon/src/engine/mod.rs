//! Engine processes: starting them, and talking to them.

mod bounds;
mod last_words;
mod load_view;
mod process;

pub(crate) use load_view::{LoadState, LoadView};
pub(crate) use process::{EXIT_GRACE, EngineId, EngineMessage, EngineProcess, Exit, Spawner};
