//! The directories for session states of models that are about to be loaded: a value that says when
//! one is to be created, and how long to wait for it.

use std::collections::HashMap;
use std::time::Instant;

use threadrunner_core::ModelRef;
use threadrunner_core::engine_protocol::StateDirectory;

use crate::models::PATIENCE;

/// How many models to remember.
const REMEMBERED: usize = 64;

/// What was prepared for each model.
#[derive(Debug, Default)]
pub(super) struct PreparedStates(HashMap<ModelRef, Prepared>);

/// The directory of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Prepared {
    /// It is to be created.
    Missing,
    /// It is being created; late from then on.
    Awaited(Instant),
    /// It is there. With `None`, the model does without: states are only a cache.
    There(Option<StateDirectory>),
}

impl PreparedStates {
    /// Takes the directory of a model. With [`Prepared::Missing`], counts it as being created from
    /// then on.
    pub(super) fn take(&mut self, model: &ModelRef, now: Instant) -> Prepared {
        match self.0.get(model) {
            Some(Prepared::Awaited(until)) => Prepared::Awaited(*until),
            Some(_) => self.0.remove(model).unwrap_or(Prepared::Missing),
            None => {
                if self.0.len() >= REMEMBERED {
                    self.0.retain(|_, prepared| matches!(prepared, Prepared::Awaited(_)));
                }
                self.0.insert(model.clone(), Prepared::Awaited(now + PATIENCE));
                Prepared::Missing
            }
        }
    }

    /// Notes that the directory of a model was created, or cannot be.
    pub(super) fn there(&mut self, model: ModelRef, state: Option<StateDirectory>) {
        self.0.insert(model, Prepared::There(state));
    }

    /// Notes that the directory of a model is not being created after all.
    pub(super) fn forget(&mut self, model: &ModelRef) {
        self.0.remove(model);
    }

    /// Gives up on directories that are late.
    pub(super) fn time(&mut self, now: Instant) {
        for (model, prepared) in &mut self.0 {
            if matches!(prepared, Prepared::Awaited(until) if *until <= now) {
                tracing::warn!(
                    model = model.name(),
                    "the disk of the cache does not answer: loading without the states of sessions"
                );
                *prepared = Prepared::There(None);
            }
        }
    }

    /// When the first directory is late.
    pub(super) fn next(&self) -> Option<Instant> {
        let late = |prepared: &Prepared| match prepared {
            Prepared::Awaited(until) => Some(*until),
            Prepared::Missing | Prepared::There(_) => None,
        };
        self.0.values().filter_map(late).min()
    }
}

#[cfg(test)]
mod tests {
    use threadrunner_core::BackendKind;

    use super::*;

    #[test]
    fn a_directory_is_created_once_and_done_without_when_it_is_late() {
        let (mut states, now) = (PreparedStates::default(), Instant::now());
        let model = ModelRef { backend: BackendKind::Dummy, path: None, draft: None };
        let state = StateDirectory { path: "/state".into(), max_bytes: 1 };
        assert_eq!(states.take(&model, now), Prepared::Missing);
        assert_eq!(states.take(&model, now), Prepared::Awaited(now + PATIENCE));
        states.there(model.clone(), Some(state.clone()));
        assert_eq!((states.next(), states.take(&model, now)), (None, Prepared::There(Some(state))));
        assert_eq!(states.take(&model, now), Prepared::Missing, "it is taken once");
        assert_eq!(states.next(), Some(now + PATIENCE));
        states.time(now + PATIENCE);
        assert_eq!((states.next(), states.take(&model, now)), (None, Prepared::There(None)));
    }
}
