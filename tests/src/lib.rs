//! What the stories in `tests/` are told with: a home of its own for each, the three programs as
//! they were built, a client that speaks frames, and the end of all that was started.

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
