//! Engines that die again and again: the next one of the same model waits a little, so that a model
//! that kills its engines neither fills the log nor keeps the machine busy with starting them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use threadrunner_core::ModelRef;

/// How many deaths within [`WITHIN`] cost no time. A job has three attempts.
const FREE: usize = 3;
const WITHIN: Duration = Duration::from_secs(60);
/// How long the next engine waits: short for jobs that fail quickly one by one, and long beside the
/// start of an engine.
const PAUSE: Duration = Duration::from_secs(1);

/// When the engines of each model have died lately.
#[derive(Debug, Default)]
pub(super) struct Deaths(HashMap<ModelRef, Vec<Instant>>);

impl Deaths {
    /// Notes that an engine of this model has died.
    pub(super) fn died(&mut self, model: &ModelRef, now: Instant) {
        self.0.retain(|_, deaths| {
            deaths.retain(|at| *at + WITHIN > now);
            !deaths.is_empty()
        });
        self.0.entry(model.clone()).or_default().push(now);
    }

    /// Whether the next engine of a model is not to be started yet.
    pub(super) fn pauses(&self, model: &ModelRef, now: Instant) -> bool {
        self.0.get(model).and_then(|deaths| until(deaths)).is_some_and(|until| until > now)
    }

    /// When the first pause ends.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.0.values().filter_map(|deaths| until(deaths)).filter(|until| *until > now).min()
    }
}

fn until(deaths: &[Instant]) -> Option<Instant> {
    let last = deaths.last().filter(|_| deaths.len() > FREE)?;
    Some(*last + PAUSE)
}

#[cfg(test)]
mod tests {
    use threadrunner_core::BackendKind;

    use super::*;

    #[test]
    fn a_model_that_kills_its_engines_waits_and_others_do_not() {
        let model = |path: &str| ModelRef {
            backend: BackendKind::Llama,
            path: Some(path.into()),
            draft: None,
        };
        let (bad, good) = (model("bad"), model("good"));
        let start = Instant::now();
        let mut deaths = Deaths::default();
        for _ in 0..FREE {
            deaths.died(&bad, start);
            assert!(!deaths.pauses(&bad, start) && deaths.next(start).is_none());
        }
        deaths.died(&bad, start);
        assert!(deaths.pauses(&bad, start) && !deaths.pauses(&good, start));
        assert_eq!(deaths.next(start), Some(start + PAUSE));
        assert!(!deaths.pauses(&bad, start + PAUSE) && deaths.next(start + PAUSE).is_none());
        // What is long past does not count.
        deaths.died(&bad, start + WITHIN);
        assert!(!deaths.pauses(&bad, start + WITHIN));
    }
}
