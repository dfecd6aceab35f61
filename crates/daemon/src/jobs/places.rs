//! Queued jobs with readers, and when the readers are told their places.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use threadrunner_core::JobId;

/// The shortest time between two reports of places: each change of the queue moves everyone's.
const EVERY: Duration = Duration::from_millis(50);

/// Whose places are reported, and when.
#[derive(Debug, Default)]
pub(super) struct Places {
    watched: HashSet<JobId>,
    told: Option<Instant>,
    next: Option<Instant>,
}

impl Places {
    /// Has the place of a job reported from now on.
    pub(super) fn watch(&mut self, id: &JobId) {
        self.watched.insert(id.clone());
    }

    /// Has it reported no more.
    pub(super) fn forget(&mut self, id: &JobId) {
        self.watched.remove(id);
    }

    /// Notes that places have changed. They are reported now, or later if the last report was just
    /// now.
    pub(super) fn changed(&mut self, now: Instant) {
        if !self.watched.is_empty() {
            self.next = Some(self.told.map_or(now, |told| now.max(told + EVERY)));
        }
    }

    /// The jobs whose places are to be reported now.
    pub(super) fn due(&mut self, now: Instant) -> impl Iterator<Item = &JobId> {
        let due = self.next.is_some_and(|next| next <= now);
        if due {
            (self.told, self.next) = (Some(now), None);
        }
        self.watched.iter().filter(move |_| due)
    }

    /// When places are to be reported.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_reported_at_once_and_then_not_too_often() {
        let (mut places, start) = (Places::default(), Instant::now());
        places.changed(start);
        assert_eq!(places.next(), None, "nobody watches");
        let id = JobId::parse("1").unwrap();
        places.watch(&id);
        places.changed(start);
        assert_eq!(places.due(start).collect::<Vec<_>>(), [&id]);
        assert_eq!(places.due(start).next(), None);
        places.changed(start);
        assert_eq!((places.next(), places.due(start).next()), (Some(start + EVERY), None));
        assert_eq!(places.due(start + EVERY).count(), 1);
        places.forget(&id);
        places.changed(start + 2 * EVERY);
        assert_eq!(places.next(), None);
    }
}
