//! The client side of the daemon's socket.
//!
//! [`Daemon`] finds the daemon of a home, starts it if none runs, and ends it. A [`Client`] is one
//! connection, shared by any number of requests; each answer is read from its own [`Replies`].
//!
//! There is no handshake: the first frame on a connection is the first request, and a daemon of
//! another version says so in its answer. [`Daemon::open`] then replaces that daemon and sends the
//! request again. Whether a request may be sent twice is a fact of its operation, in
//! [`threadrunner_core::protocol::Treatment`].
//!
//! The crate prints nothing, reads no job on disk, and knows no command: its caller decides what to
//! ask, and what to show meanwhile ([`Phase`]). If the daemon stops answering, every request fails
//! within a minute.
//!
//! Tests: in `tests/connection.rs` the test plays the daemon; `tests/starting.rs` starts, replaces
//! and ends real processes. Neither needs the daemon's program.

mod connection;
mod daemon;
mod drive;
mod end;
mod loss;
mod spawn;

pub use connection::{Client, Replies};
pub use daemon::{Daemon, Phase};
pub use loss::is_loss;
