//! The workspace, from outside.

mod stories;
mod support;
