//! How much memory a model would take: asked of an engine process before the model is loaded.
//!
//! The daemon reads no model files, because it cannot trust them. A process that is fenced in like
//! an engine reads the header, answers and exits. The answer is kept until the file changes; once
//! an engine has loaded the model, what it really took counts instead.

use std::collections::HashMap;

use threadrunner_core::{Failure, Memory, ModelRef};

use crate::model_files::ModelFiles;

/// How many models to remember.
const REMEMBERED: usize = 1024;

/// What is known about models that are not loaded, and the files it is known of.
#[derive(Debug, Default)]
pub(super) struct Sizes(HashMap<ModelRef, (ModelFiles, Size)>);

/// What is known about a model.
#[derive(Debug, Clone)]
pub(super) enum Size {
    /// It takes this much.
    Known(Sized),
    /// It is not a model that can be loaded.
    Failed(Failure),
}

/// The memory that a model takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sized {
    /// With the context that was asked for, or the usual one.
    pub(super) wanted: Memory,
    /// With the smallest context that is of use.
    pub(super) least: Memory,
    /// What it took when it was last loaded as `wanted`, in bytes.
    pub(super) measured: Option<u64>,
}

impl Sizes {
    /// What is known about a model, if `files` are the same as then.
    pub(super) fn get(&self, model: &ModelRef, files: &ModelFiles) -> Option<&Size> {
        let (known, size) = self.0.get(model)?;
        (known == files).then_some(size)
    }

    /// Records what a model with these files takes.
    pub(super) fn remember(&mut self, model: ModelRef, files: ModelFiles, size: Size) {
        if self.0.len() >= REMEMBERED {
            // This many different files are a test or an accident: ask about them again.
            self.0.clear();
        }
        self.0.insert(model, (files, size));
    }

    /// Records what a model took when it was loaded as `wanted`.
    pub(super) fn measured(&mut self, model: &ModelRef, bytes: u64) {
        if let Some((_, Size::Known(sized))) = self.0.get_mut(model) {
            sized.measured = Some(bytes);
        }
    }

    /// Forgets what is known about a model.
    pub(super) fn forget(&mut self, model: &ModelRef) {
        self.0.remove(model);
    }
}
