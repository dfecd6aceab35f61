//! The workspace, from outside.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod stories;
mod support;
