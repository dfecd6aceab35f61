//! The client side of the daemon's socket.
//!
//! [`Daemon`] finds the daemon of a home, and starts it if none runs. A [`Client`] is one
//! connection, shared by any number of requests; each answer is read from its own [`Replies`].
//!
//! There is no handshake: the first frame on a connection is the first request, and a daemon of
//! another version says so in its answer. [`Daemon::open`] then replaces that daemon and sends the
//! request again.

mod connection;
mod daemon;
mod drive;
mod end;
mod program;
mod spawn;

pub use connection::{Client, Replies};
pub use daemon::{Daemon, Phase};
pub use program::find_program;
