//! The end of a group: one sync, then the reports.

use std::time::Instant;

use super::super::{After, StoreEvent, Written};
use super::{Keeper, Pending};

impl Keeper {
    /// Syncs what was prepared, and reports the outcome.
    pub(super) fn sync(&mut self) {
        let start = Instant::now();
        let mut synced = self.workspace.sync_and_set_aside();
        self.pace.synced(start.elapsed());
        for (id, pending) in std::mem::take(&mut self.pending) {
            let error = synced.take_error(&id);
            match (pending, error) {
                (Pending::Queued { after, any, turn }, None) => {
                    // Only after the sync: jobs that ended in this group count as ended here, and
                    // later ends are reported after this event.
                    let after = After::of(after, any, turn, &self.workspace.reader());
                    let result = Ok(Written::Ready(after));
                    self.tell(StoreEvent::Submitted { id: id.clone(), result });
                    self.tell(StoreEvent::Durable { id });
                }
                (Pending::Queued { .. }, Some(error)) => {
                    self.needs.ended(&id);
                    self.drop_turn(&id);
                    self.forget_hook(&id);
                    self.tell(StoreEvent::Submitted { id, result: Err(error.into()) });
                }
                (Pending::BeginsThen(claim), None) => {
                    self.tell(StoreEvent::Durable { id: id.clone() });
                    let result = Ok(Written::Claimed(claim));
                    self.tell(StoreEvent::Submitted { id, result });
                }
                (Pending::BeginsThen(_), Some(error)) => {
                    self.drop_turn(&id);
                    self.claimed.remove(&id);
                    self.forget_hook(&id);
                    self.tell(StoreEvent::Submitted { id, result: Err(error.into()) });
                }
                (Pending::Begun, None) => self.tell(StoreEvent::Durable { id }),
                (Pending::Begun, Some(error)) => {
                    self.drop_turn(&id);
                    self.claimed.remove(&id);
                    self.forget_hook(&id);
                    self.tell(StoreEvent::Lost { id, failure: error.into() });
                }
                (Pending::Claimed(claim), None) => {
                    self.tell(StoreEvent::Claimed { id, result: Ok(claim) });
                }
                (Pending::Claimed(_), Some(error)) => {
                    self.claimed.remove(&id);
                    self.not_claimed_for(id, error);
                }
                (Pending::Released, Some(error)) => {
                    self.recover_later(id.clone());
                    self.tell(StoreEvent::Released { id, result: Err(error.into()) });
                }
                (Pending::Released, None) => {
                    self.tell(StoreEvent::Released { id, result: Ok(()) });
                }
                (Pending::Refused, None) => {
                    self.needs.ended(&id);
                    self.turn_ended(&id);
                    self.tell_hook_due(&id);
                    self.tell(StoreEvent::Refused { id });
                }
                (Pending::Refused, Some(error)) => {
                    tracing::warn!(job = %id, %error, "a malformed job stays in ready");
                }
                (Pending::Ended, Some(error)) => {
                    self.recover_later(id.clone());
                    self.tell(StoreEvent::Ended { id, result: Err(error.into()) });
                }
                (Pending::Ended, None) => {
                    self.needs.ended(&id);
                    self.turn_ended(&id);
                    self.tell_hook_due(&id);
                    self.tell(StoreEvent::Ended { id, result: Ok(()) });
                }
                (Pending::Recovered, Some(_)) => self.recover_later(id),
                // Inspect it: it is in `ready` if it is to run again.
                (Pending::Recovered, None) => {
                    self.turn_ended(&id);
                    self.tell_standing(id.clone());
                    self.tell_hook_due(&id);
                    self.backlog.push_back(id);
                }
                (Pending::Answer { reply, then_look }, error) => {
                    let _ = reply.send(error.map_or(Ok(()), |error| Err(error.into())));
                    if then_look {
                        // Not now: a malformed job is moved by the next sync.
                        self.backlog.push_back(id);
                    }
                }
            }
        }
        for id in std::mem::take(&mut self.asked_about) {
            self.tell_standing(id);
        }
        self.finish_removals(&mut synced);
        for unwritten in std::mem::take(&mut synced.unwritten) {
            let (session, error) = (unwritten.name, unwritten.error);
            tracing::warn!(%session, %error, "cannot write a session's file yet");
        }
        self.undo_turns();
        self.remove_sessions();
        self.publish_sessions();
        for (id, error) in synced.failed {
            tracing::warn!(job = %id, %error, "cannot apply a change to a job");
        }
    }
}
