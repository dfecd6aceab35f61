//! Talking to the daemon.
//!
//! [`Daemon`] knows how to reach the daemon of a home, and starts it where none runs. A [`Client`]
//! is one connection to it; any number of requests share it, and the answer to each is read from
//! its own [`Replies`].
//!
//! There is no handshake: the first frame on a connection is the first request, and a daemon of
//! another version says so in its answer. [`Daemon::open`] then has it replaced and asks again.

mod connection;
mod daemon;
mod drive;
mod end;
mod program;
mod spawn;

pub use connection::{Client, Replies};
pub use daemon::{Daemon, Phase};
pub use program::find_program;
