//! Tests of the workspace through its public interface.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod faults;
mod foreign;
mod full;
mod hooks;
mod model;
mod power;
mod reading;
mod recovery;
mod redo;
mod retention;
mod scenario;
mod sessions;
mod stories;
mod support;
mod syncs;
mod told;
mod twisted;
