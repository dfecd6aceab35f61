//! Models and their backends, as requests, records and engines name them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::open_enum::{known, open_enum};

open_enum! {
    /// The backend that runs a model.
    pub enum BackendKind {
        /// llama.cpp, for GGUF files.
        Llama = "llama",
        /// No model: answers with the words of the prompt, for tests and CI.
        Dummy = "dummy",
    }
}

/// A resolved model. Each loaded one has an engine process of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelRef {
    /// The backend.
    pub backend: BackendKind,
    /// The absolute path of the model file; `None` for the dummy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The absolute path of its draft model's file, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<PathBuf>,
}

impl ModelRef {
    /// The name to show: the model file's stem, or the backend's name.
    pub fn name(&self) -> String {
        self.path.as_deref().and_then(stem).unwrap_or_else(|| self.backend.as_str().to_owned())
    }

    /// Whether it is the same model as `asked`, with the same draft model if `asked` names one.
    pub fn is_as_asked(&self, asked: &Self) -> bool {
        let same_draft = asked.draft.is_none() || self.draft == asked.draft;
        (self.backend, &self.path) == (asked.backend, &asked.path) && same_draft
    }

    /// The name of its draft model.
    pub fn draft_name(&self) -> Option<String> {
        self.draft.as_deref().and_then(stem)
    }
}

fn stem(path: &Path) -> Option<String> {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned())
}

/// Reads a model that is to be run, whose backend must be known.
pub(crate) fn known_model<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<ModelRef>, D::Error> {
    #[derive(Deserialize)]
    struct Known {
        #[serde(deserialize_with = "known")]
        backend: BackendKind,
        #[serde(default)]
        path: Option<PathBuf>,
        #[serde(default)]
        draft: Option<PathBuf>,
    }
    let model = Option::<Known>::deserialize(from)?;
    Ok(model.map(|Known { backend, path, draft }| ModelRef { backend, path, draft }))
}
