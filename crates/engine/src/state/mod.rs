//! What conversations have cached, on disk: so that their next turn, after the model was unloaded
//! or the machine restarted, reads only what is new.
//!
//! A directory has one file for each session ([`file`]), and the files have a budget together: the
//! least recently used make room. A file is of one model and one way of keeping cells
//! (`fingerprint`); one of another, of another version, half a file or a damaged one is removed
//! and never restored. llama.cpp would believe what it reads, so nothing reaches it that this
//! module did not write: that is what checksum and fingerprint are for. They do not stop somebody
//! who forges a file, and need not: the directory is the user's own (mode 0700), and only the
//! daemon and its engines write there.

mod file;
mod fingerprint;
mod store;
#[cfg(test)]
mod tests;

pub use store::States;
