//! Engine processes: starting them, talking to them, and their state.

mod bounds;
mod last_words;
mod loaded;
mod process;

pub(crate) use loaded::{Engine, LoadState, LoadView, Stay};
pub(crate) use process::{EXIT_GRACE, EngineId, EngineMessage, EngineProcess, Exit, Spawner};
