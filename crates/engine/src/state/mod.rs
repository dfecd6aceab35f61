//! Keeps what conversations have cached on disk, so that their next turn reads only what is new,
//! even after the model was unloaded or the machine restarted.
//!
//! [`States`] manages a directory with one file for each session ([`file`]). The files share a
//! budget: the least recently used ones make room. A file belongs to one model and one format of
//! cells (`fingerprint`). A file that belongs to others, has another version, is cut short or
//! damaged is removed and never restored.
//!
//! llama.cpp trusts what it reads, so checksums and fingerprint ensure that it gets only what this
//! module wrote. They do not protect against a forged file, and need not: the directory belongs
//! to the user (mode 0700), and only the daemon and its engines write there.

mod file;
mod fingerprint;
mod store;
#[cfg(test)]
mod tests;

pub use store::States;
