//! Decides which events are written now, and which are held and written together.
//!
//! A write wakes the daemon, which wakes its clients, all on the processors that compute the next
//! token. So text that a reader could not tell apart in time shares a write, and an answer that
//! nobody follows is written even less often. The first text of an answer and its end are never
//! held.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::{EngineRequestId, Event};

/// How long text that a client follows may be held after the last write: less than a frame of film
/// lasts. A token that takes longer than this to compute is never held; the fastest models compute
/// about five in this time.
pub const WINDOW: Duration = Duration::from_millis(25);
/// How long text that no client follows may be held. An engine that dies loses this much of an
/// answer.
pub const WINDOW_UNFOLLOWED: Duration = Duration::from_millis(250);

/// Decides when events are written. Has no clock: callers pass the time.
#[derive(Debug, Default)]
pub struct Coalescer {
    requests: HashMap<EngineRequestId, Reader>,
    /// Events that must not wait.
    ready: Vec<Event>,
    /// Events of answers that a client follows, and of those that none does.
    followed: Held,
    unfollowed: Held,
    written: Option<Instant>,
}

/// Who reads an answer.
#[derive(Debug, Default)]
struct Reader {
    /// Whether a client follows it as it comes.
    follows: bool,
    /// Whether its first text since then was sent.
    began: bool,
}

/// Events that wait to be written with others.
#[derive(Debug, Default)]
struct Held {
    events: Vec<Event>,
    /// When they must be written. `None` if there are none.
    due: Option<Instant>,
}

impl Coalescer {
    /// Begins a request. `follows` tells whether a client follows its answer.
    pub fn begin(&mut self, id: EngineRequestId, follows: bool) {
        self.requests.insert(id, Reader { follows, began: false });
    }

    /// Notes that a client follows the answer from now on. Releases what is held of it.
    pub fn follow(&mut self, id: EngineRequestId) {
        if let Some(reader) = self.requests.get_mut(&id) {
            reader.follows = true;
            self.ready.extend(self.unfollowed.take_of(id));
        }
    }

    /// Takes in an event that occurred at `now`.
    pub fn push(&mut self, event: Event, now: Instant) {
        let (Event::Text { id, .. }
        | Event::Output { id, .. }
        | Event::Prefill { id, .. }
        | Event::Finished { id, .. }
        | Event::Failed { id, .. }) = event
        else {
            self.ready.push(event);
            return;
        };
        match (&event, self.requests.get_mut(&id)) {
            (
                Event::Prefill { .. } | Event::Text { .. } | Event::Output { .. },
                Some(Reader { follows: false, .. }),
            ) => {
                self.unfollowed.add(event, now + WINDOW_UNFOLLOWED);
            }
            (Event::Text { .. }, Some(reader)) if !reader.began => {
                reader.began = true;
                self.urgent(id, event);
            }
            (Event::Prefill { .. } | Event::Text { .. } | Event::Output { .. }, Some(_)) => {
                self.followed.add(event, self.written.map_or(now, |at| at + WINDOW));
            }
            _ => {
                self.requests.remove(&id);
                self.urgent(id, event);
            }
        }
    }

    fn urgent(&mut self, id: EngineRequestId, event: Event) {
        self.ready.extend(self.followed.take_of(id));
        self.ready.extend(self.unfollowed.take_of(id));
        self.ready.push(event);
    }

    /// Returns the events to write now, if the next chance to write comes after `next_chance`.
    pub fn take(&mut self, now: Instant, next_chance: Duration) -> Vec<Event> {
        let unfollowed_too = self.unfollowed.is_due(now, next_chance);
        let due =
            unfollowed_too || !self.ready.is_empty() || self.followed.is_due(now, next_chance);
        if !due {
            return Vec::new();
        }
        let mut events = std::mem::take(&mut self.ready);
        events.append(&mut self.followed.take());
        if unfollowed_too {
            events.append(&mut self.unfollowed.take());
        }
        self.written = Some(now);
        events
    }
}

impl Held {
    /// Adds an event that must be written by `due`, unless earlier events have set the time.
    /// Appends text to that of the same request, and replaces progress with later progress.
    fn add(&mut self, event: Event, due: Instant) {
        self.due.get_or_insert(due);
        let earlier = self.events.iter_mut().rev().find(|held| request(held) == request(&event));
        match (earlier, event) {
            (Some(Event::Text { text, .. }), Event::Text { text: more, .. }) => {
                text.push_str(&more);
            }
            (Some(earlier @ Event::Prefill { .. }), event @ Event::Prefill { .. }) => {
                *earlier = event;
            }
            (_, event) => self.events.push(event),
        }
    }

    fn is_due(&self, now: Instant, next_chance: Duration) -> bool {
        self.due.is_some_and(|due| due <= now || due - now < next_chance)
    }

    fn take(&mut self) -> Vec<Event> {
        self.due = None;
        std::mem::take(&mut self.events)
    }

    /// Takes out the events of one request.
    fn take_of(&mut self, id: EngineRequestId) -> Vec<Event> {
        let its = self.events.extract_if(.., |event| request(event) == Some(id)).collect();
        if self.events.is_empty() {
            self.due = None;
        }
        its
    }
}

/// The request that a held event belongs to.
fn request(event: &Event) -> Option<EngineRequestId> {
    match event {
        Event::Text { id, .. } | Event::Output { id, .. } | Event::Prefill { id, .. } => Some(*id),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
