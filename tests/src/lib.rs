//! What the end-to-end tests in `tests/` share: real processes, as a user or a script starts them.
//!
//! [`TestHome`] is a home of a test's own, with the three programs as they were built beside the
//! test, the dummy backend, and hardly a variable of the test's environment; dropping it ends its
//! daemon, and the directory is kept if the test fails. [`Frames`] is a client that speaks frames
//! and knows nothing else, [`Terminal`] a terminal that a test types on and reads, [`eventually`]
//! the way to wait for another process. [`in_own_mounts`] lets a test mount small and read-only
//! file systems. [`soak`] kills daemons and engines at random under clients of every kind, and
//! counts what is left.
//!
//! This crate does not build the programs (`cargo build --workspace --bins` does), and knows them
//! by their arguments, files, sockets and exit codes alone. From the other crates it takes only the
//! codec and, with the feature `llama`, the model files that the engine's crate can write.
//!
//! A file in `tests/` is a subject, and each test a sentence: `faults.rs` is about what runs out,
//! `hostile.rs` about engines that lie, `docs.rs` runs what the documentation shows, `json.rs`
//! compares what `--json` prints with `golden/`, and `model.rs` has real models.

mod engine;
mod frames;
mod home;
mod mounts;
pub mod soak;
mod terminal;
mod wait;

pub use frames::Frames;
pub use home::{Finished, TestHome, models_directory, program};
pub use mounts::{in_own_mounts, mount_small, remount_read_only};
pub use terminal::Terminal;
pub use wait::{eventually, process_is_alive};
