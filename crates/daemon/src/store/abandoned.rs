//! What is left of a workspace that is gone from its place: every operation fails, so that nobody
//! waits for its jobs.

use std::sync::mpsc::Receiver;

use threadrunner_core::Failure;

use super::{Operation, Reply, Standing, StoreEvent, StoreEvents, WorkspaceId};

/// Answers operations in the place of a [`Keeper`](super::keeper::Keeper).
pub(super) struct Abandoned {
    id: WorkspaceId,
    failure: Failure,
    events: StoreEvents,
}

impl Abandoned {
    pub(super) fn new(id: WorkspaceId, failure: Failure, events: StoreEvents) -> Self {
        Self { id, failure, events }
    }

    /// Runs until all handles are dropped.
    pub(super) fn run(self, operations: &Receiver<Operation>) {
        while let Ok(operation) = operations.recv() {
            self.refuse(operation);
        }
    }

    fn refuse(&self, operation: Operation) {
        match operation {
            Operation::Submit(submission) => {
                let id = submission.id.clone();
                self.tell(StoreEvent::Submitted { id, result: Err(self.failure.clone()) });
            }
            Operation::Claim(id) => {
                self.tell(StoreEvent::Claimed { id, result: Err(self.failure.clone()) });
            }
            Operation::Complete { id, .. }
            | Operation::Fail { id, .. }
            | Operation::FailQueued { id, .. } => {
                self.tell(StoreEvent::Ended { id, result: Err(self.failure.clone()) });
            }
            Operation::Release { id, .. } => {
                self.tell(StoreEvent::Released { id, result: Err(self.failure.clone()) });
            }
            Operation::BeginHook(id) => self.tell(StoreEvent::HookReady { id, result: Ok(None) }),
            Operation::EndHook { .. } => self.tell(StoreEvent::HookNoted),
            Operation::Stands(id) => self.tell(StoreEvent::Stands { id, how: Standing::Missing }),
            Operation::Append { .. } | Operation::Look { .. } | Operation::List(_) => {}
            Operation::LookFor { reply, .. } | Operation::Retry { reply, .. } => self.answer(reply),
            Operation::Remove { reply, .. } | Operation::RemoveAll { reply, .. } => {
                self.answer(reply);
            }
            Operation::UndoTurn { reply, .. } => self.answer(reply),
            Operation::RemoveSession { reply, .. } => self.answer(reply),
            // The client may be gone.
            Operation::Abandon { reply, .. } => drop(reply.send(Ok(()))),
        }
    }

    fn answer<T>(&self, reply: Reply<T>) {
        // The client may be gone.
        let _ = reply.send(Err(self.failure.clone()));
    }

    fn tell(&self, event: StoreEvent) {
        // The owner may be gone.
        let _ = self.events.blocking_send((self.id, event));
    }
}
