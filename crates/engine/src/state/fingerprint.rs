//! Identifies what a state belongs to. If cells of one model do not fit another, their fingerprints
//! differ.

use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use threadrunner_core::ModelDigest;

use crate::gguf;
use crate::machine::BUILD;

/// Returns the fingerprint of a model, whose files and digest are given if it has any, with cells in
/// the format `format`.
///
/// Cells depend on all weights, but the digest covers only samples of them. So the fingerprint
/// covers the files' modification times as well, and the engine's version and build.
pub(super) fn of(model: Option<(&Path, &ModelDigest)>, format: &str) -> io::Result<String> {
    let (version, build) = (env!("CARGO_PKG_VERSION"), BUILD);
    let mut fingerprint = format!("engine {version} {build}; {format}");
    let Some((path, digest)) = model else { return Ok(fingerprint) };
    fingerprint += &format!("; model {digest}");
    for part in gguf::parts(path) {
        let written = part.metadata()?.modified()?;
        let written = written.duration_since(UNIX_EPOCH).unwrap_or_default();
        fingerprint += &format!(" {}", written.as_nanos());
    }
    Ok(fingerprint)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn models_that_differ_have_different_fingerprints() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, "").unwrap();
        let when = SystemTime::now() - Duration::from_secs(1000);
        let print = |digest: u128, when: SystemTime, format: &str| {
            File::options().append(true).open(&path).unwrap().set_modified(when).unwrap();
            of(Some((&path, &ModelDigest::sampled(digest))), format).unwrap()
        };
        let usual = print(1, when, "a");
        assert_eq!(print(1, when, "a"), usual);
        assert_ne!(print(1, when, "b"), usual);
        assert_ne!(print(1, when + Duration::from_nanos(1000), "a"), usual);
        assert_ne!(print(2, when, "a"), usual);
    }

    #[test]
    fn a_model_without_a_file_has_one_and_a_missing_file_has_none() {
        assert!(of(None, "a").unwrap().contains("; a"));
        let missing = Path::new("/nowhere/model.gguf");
        assert!(of(Some((missing, &ModelDigest::sampled(1))), "a").is_err());
    }
}
