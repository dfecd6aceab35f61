//! What the end-to-end tests in `tests/` share: a home for each test, the three programs as built,
//! a client that speaks frames, and a terminal. Dropping a home ends the daemon it started.

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
