//! The one place where the owner waits: for clients, engines, workspaces, hooks and the time.

use std::time::Instant;

use threadrunner_core::HookOutcome;
use tokio::sync::mpsc;

use super::disk::News;
use super::hub::{Order, Orders};
use crate::engine::{EngineId, EngineMessage};
use crate::hooks::{Hooks, PlacedJob};
use crate::store::{StoreEvent, StoreEvents, WorkspaceId};

/// Once in this many turns, everything else goes before the engines, whose messages may never stop.
const ENGINES_FIRST: u32 = 16;

/// What the owner is sent.
#[derive(Debug)]
pub(super) struct Inbox {
    turns: u32,
    orders: Orders,
    from_engines: mpsc::Receiver<(EngineId, EngineMessage)>,
    from_stores: mpsc::Receiver<(WorkspaceId, StoreEvent)>,
    from_disk: mpsc::Receiver<News>,
    /// Where the threads of workspaces that are served later send their events. Weak, so that the
    /// channel closes when no thread is left.
    to_owner: mpsc::WeakSender<(WorkspaceId, StoreEvent)>,
}

/// What happens next.
pub(super) enum Next {
    Order(Order),
    Engine(EngineId, EngineMessage),
    Store(WorkspaceId, Box<StoreEvent>),
    Hook(PlacedJob, Option<HookOutcome>),
    Disk(Box<News>),
    Time,
    /// Nothing is ready, except perhaps an engine's message.
    Again,
    Nothing,
}

impl Inbox {
    pub(super) fn new(
        orders: Orders,
        from_engines: mpsc::Receiver<(EngineId, EngineMessage)>,
        from_disk: mpsc::Receiver<News>,
        (to_owner, from_stores): (StoreEvents, mpsc::Receiver<(WorkspaceId, StoreEvent)>),
    ) -> Self {
        let to_owner = to_owner.downgrade();
        Self { turns: 0, orders, from_engines, from_stores, from_disk, to_owner }
    }

    /// Waits for what happens next, at most until `deadline`. Takes an order only if there is
    /// `room` for what it may set off.
    pub(super) async fn next(
        &mut self,
        hooks: &mut Hooks,
        room: bool,
        deadline: Option<Instant>,
    ) -> Next {
        self.turns = self.turns.wrapping_add(1);
        let others_first = self.turns.is_multiple_of(ENGINES_FIRST);
        tokio::select! {
            biased;
            Some((id, message)) = self.from_engines.recv(), if !others_first =>
                Next::Engine(id, message),
            event = self.from_stores.recv() => match event {
                Some((workspace, event)) => Next::Store(workspace, Box::new(event)),
                None => Next::Nothing,
            },
            Some(news) = self.from_disk.recv() => Next::Disk(Box::new(news)),
            Some(order) = self.orders.recv(), if room => Next::Order(order),
            Some((job, outcome)) = hooks.ended() => Next::Hook(job, outcome),
            () = sleep_until(deadline), if deadline.is_some() => Next::Time,
            () = std::future::ready(()), if others_first => Next::Again,
        }
    }

    /// Where the thread of another workspace sends its events; `None` if no thread is left.
    pub(super) fn for_stores(&self) -> Option<StoreEvents> {
        self.to_owner.upgrade()
    }

    /// The engines' messages, until the last engine has exited. Drops everything else.
    pub(super) fn into_messages(self) -> mpsc::Receiver<(EngineId, EngineMessage)> {
        self.from_engines
    }

    /// The next event of a workspace's thread, or what was done on a disk.
    #[cfg(test)]
    pub(super) async fn stored(&mut self) -> Next {
        tokio::select! {
            Some((workspace, event)) = self.from_stores.recv() =>
                Next::Store(workspace, Box::new(event)),
            Some(news) = self.from_disk.recv() => Next::Disk(Box::new(news)),
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
