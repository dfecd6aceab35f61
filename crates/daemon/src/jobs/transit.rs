//! Engines on their way: those that are wanted and not started, and those that were told to exit.

use threadrunner_core::KeepAlive;
use tokio::sync::watch;

use super::rooms::Room;
use crate::engine::LoadView;

/// A model that a client asked to load and that has no engine yet.
#[derive(Debug)]
pub(super) struct WantedLoad {
    pub(super) view: watch::Sender<LoadView>,
    pub(super) pin: bool,
    pub(super) keep_alive: Option<KeepAlive>,
}

/// An engine that was told to exit.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) room: Room,
    pub(super) pid: u32,
}
