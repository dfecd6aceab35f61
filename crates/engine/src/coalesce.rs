//! Which events are written now, and which a little later together.
//!
//! A write wakes the daemon, and that one its clients, on the processors that compute the next
//! token. So what a reader could not tell apart shares a write, and what nobody reads as it comes
//! waits for more of its kind. What begins or ends an answer waits for nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::Event;

/// How long text may be held for more of it, since the last write: less than an image of a film
/// lasts. A token that takes as long to compute is never held; the quickest models have some five
/// in it.
pub const WINDOW: Duration = Duration::from_millis(25);
/// How long text may be held that nobody reads as it comes. It is what an engine that dies takes
/// with it of an answer.
pub const WINDOW_UNFOLLOWED: Duration = Duration::from_millis(250);

/// Decides when events are written. It has no clock: it is told the time.
#[derive(Debug, Default)]
pub struct Coalescer {
    requests: HashMap<u64, Reader>,
    /// What waits for nothing.
    ready: Vec<Event>,
    /// What somebody reads as it comes, and what nobody does.
    followed: Held,
    unfollowed: Held,
    written: Option<Instant>,
}

/// What is known of who reads an answer.
#[derive(Debug, Default)]
struct Reader {
    /// Whether somebody reads it as it comes.
    follows: bool,
    /// Whether the first of it was sent.
    began: bool,
}

/// Events that wait for others.
#[derive(Debug, Default)]
struct Held {
    events: Vec<Event>,
    /// When they are to be written, if there are any.
    due: Option<Instant>,
}

impl Coalescer {
    /// A request begins, and somebody `follows` its answer as it comes, or nobody does.
    pub fn begin(&mut self, id: u64, follows: bool) {
        self.requests.insert(id, Reader { follows, began: false });
    }

    /// Somebody follows from now on; what is held of the answer is written at once.
    pub fn follow(&mut self, id: u64) {
        if let Some(reader) = self.requests.get_mut(&id) {
            reader.follows = true;
            self.ready.extend(self.unfollowed.take_of(id));
        }
    }

    /// Takes an event in, at the time at which it came to be.
    pub fn push(&mut self, event: Event, now: Instant) {
        let (Event::Text { id, .. }
        | Event::Prefill { id, .. }
        | Event::Finished { id, .. }
        | Event::Failed { id, .. }) = event
        else {
            self.ready.push(event);
            return;
        };
        match (&event, self.requests.get_mut(&id)) {
            (Event::Prefill { .. } | Event::Text { .. }, Some(Reader { follows: false, .. })) => {
                self.unfollowed.add(event, now + WINDOW_UNFOLLOWED);
            }
            (Event::Text { .. }, Some(reader)) if !reader.began => {
                reader.began = true;
                self.urgent(id, event);
            }
            (Event::Prefill { .. } | Event::Text { .. }, Some(_)) => {
                self.followed.add(event, self.written.map_or(now, |at| at + WINDOW));
            }
            _ => {
                self.requests.remove(&id);
                self.urgent(id, event);
            }
        }
    }

    fn urgent(&mut self, id: u64, event: Event) {
        self.ready.extend(self.followed.take_of(id));
        self.ready.extend(self.unfollowed.take_of(id));
        self.ready.push(event);
    }

    /// What is to be written now, if there is no other chance for so long.
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
    /// Adds an event, which is to be written by `due` if there are none that are to be earlier.
    /// Text goes on where there is some of its request, and progress takes the place of earlier
    /// progress.
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

    /// Takes out what is held of one request.
    fn take_of(&mut self, id: u64) -> Vec<Event> {
        let its = self.events.extract_if(.., |event| request(event) == Some(id)).collect();
        if self.events.is_empty() {
            self.due = None;
        }
        its
    }
}

/// The request that a held event is of.
fn request(event: &Event) -> Option<u64> {
    match event {
        Event::Text { id, .. } | Event::Prefill { id, .. } => Some(*id),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
