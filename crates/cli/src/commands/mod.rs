//! The commands, one file each.

pub(crate) mod batch;
pub(crate) mod cancel;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod daemon;
pub(crate) mod doctor;
pub(crate) mod follow;
pub(crate) mod jobs;
pub(crate) mod load;
pub(crate) mod models;
pub(crate) mod prune;
pub(crate) mod ps;
pub(crate) mod result;
pub(crate) mod retry;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod sessions;
pub(crate) mod status;
pub(crate) mod unload;
pub(crate) mod wait;

mod answer;
mod files;
mod ids;
mod transcript;
