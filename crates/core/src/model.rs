//! Models and their backends, as requests, records and engines name them.

use std::fmt;
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

/// What a model is, wherever it lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelId {
    /// Its name.
    pub name: String,
    /// The digest of its files; `None` if it has none, or if they have not been read yet.
    pub digest: Option<ModelDigest>,
}

/// A digest of a model's files: the kind of digest, a colon, and hexadecimal digits.
///
/// `docs/adr/0014` says what which kind proves. A digest of an unknown kind is like any other: two
/// models are the same if their digests are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelDigest(Box<str>);

impl ModelDigest {
    /// The maximum length, in bytes.
    const MAX_LEN: usize = 256;

    /// A digest of samples of the files.
    pub fn sampled(hash: u128) -> Self {
        Self(format!("sampled:{hash:032x}").into())
    }

    /// Whether it has the form of a digest. One that was read may be any text.
    pub fn is_well_formed(&self) -> bool {
        let in_kind = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let in_hash = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        self.0.len() <= Self::MAX_LEN
            && self.0.split_once(':').is_some_and(|(kind, hash)| {
                !kind.is_empty()
                    && !hash.is_empty()
                    && kind.bytes().all(in_kind)
                    && hash.bytes().all(in_hash)
            })
    }
}

impl fmt::Display for ModelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a model lies and what runs it. Each loaded one has an engine process of its own.
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
    /// What it is, if its files have this digest.
    pub fn id(&self, digest: Option<ModelDigest>) -> ModelId {
        ModelId { name: self.name(), digest }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_says_its_kind_and_any_text_is_read_as_one() {
        let digest = |text: &str| serde_json::from_value::<ModelDigest>(text.into()).unwrap();
        let sampled = ModelDigest::sampled(255);
        assert_eq!(sampled.to_string(), format!("sampled:{}ff", "0".repeat(30)));
        for good in [sampled.to_string().as_str(), "sha256:00ff", "blake3:1"] {
            assert!(digest(good).is_well_formed(), "{good}");
        }
        let long = format!("sha256:{}", "0".repeat(250));
        for bad in ["", ":", "ff", "sha256:", ":ff", "sha256:FF", "a b:1", "a:1\n", &long] {
            assert!(!digest(bad).is_well_formed(), "{bad:?}");
        }
    }
}
