//! The loading of a model, as those who wait for it see it.

use threadrunner_core::{Failure, ModelRef};

/// A model that is being loaded.
#[derive(Debug, Clone)]
pub(crate) struct LoadView {
    /// The model's name.
    pub(crate) name: String,
    /// The progress so far.
    pub(crate) state: LoadState,
}

/// How far loading is.
#[derive(Debug, Clone)]
pub(crate) enum LoadState {
    /// Loading; the fraction is from 0 to 1.
    Loading(f32),
    /// Loaded.
    Ready,
    /// Will never be loaded.
    Failed(Failure),
}

impl LoadView {
    /// The view of a model that waits to be loaded.
    pub(crate) fn waiting(model: &ModelRef) -> Self {
        Self { name: model.name(), state: LoadState::Loading(0.0) }
    }
}
