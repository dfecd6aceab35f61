//! Identifies what a state belongs to. If cells of one model do not fit another, their fingerprints
//! differ.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use crc32fast::Hasher;

use crate::gguf;
use crate::machine::BUILD;

/// The number of bytes read at the start of a model file: for most models, the whole header.
const BEGINNING: u64 = 16 << 20;
/// The number of samples from the rest of the file.
const SAMPLES: u64 = 64;
/// The length of a sample, in bytes.
const SAMPLE: u64 = 4096;

/// Returns the fingerprint of the model at `model`, with cells in the format `format`.
///
/// Cells depend on the weights, but reading all weights would take longer than reading the prompt
/// again. So the fingerprint covers each file's size, modification time and start, and samples of
/// the rest. The samples tell models apart that differ only in their weights and were unpacked with
/// the same old time. The engine's version and build are part of it too.
pub(super) fn of(model: Option<&Path>, format: &str) -> io::Result<String> {
    let (version, build) = (env!("CARGO_PKG_VERSION"), BUILD);
    let mut fingerprint = format!("engine {version} {build}; {format}");
    for part in model.map(gguf::parts).unwrap_or_default() {
        let file = File::open(&part)?;
        let metadata = file.metadata()?;
        let written = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let length = metadata.len();
        let checksum = checksum(&file, length)?;
        fingerprint += &format!("; model {length} {} {checksum:08x}", written.as_nanos());
    }
    Ok(fingerprint)
}

fn checksum(file: &File, length: u64) -> io::Result<u32> {
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; 1 << 16];
    let mut add = |from: u64, to: u64| -> io::Result<()> {
        let mut at = from;
        while at < to.min(length) {
            let most = usize::try_from(to.min(length) - at).unwrap_or(usize::MAX).min(chunk.len());
            let read = file.read_at(&mut chunk[..most], at)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hasher.update(&chunk[..read]);
            at += read as u64;
        }
        Ok(())
    };
    add(0, BEGINNING)?;
    for sample in 1..=SAMPLES {
        let at = BEGINNING + length.saturating_sub(BEGINNING + SAMPLE) / SAMPLES * sample;
        add(at, at + SAMPLE)?;
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn files_that_differ_have_different_fingerprints() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let when = SystemTime::now() - Duration::from_secs(1000);
        let print = |content: &[u8], when: SystemTime, format: &str| {
            std::fs::write(&path, content).unwrap();
            File::options().append(true).open(&path).unwrap().set_modified(when).unwrap();
            of(Some(&path), format).unwrap()
        };
        let mut content = vec![7; BEGINNING as usize + 1_000_000];
        let usual = print(&content, when, "a");
        assert_eq!(print(&content, when, "a"), usual);
        assert_ne!(print(&content, when, "b"), usual);
        assert_ne!(print(&content, when + Duration::from_nanos(1000), "a"), usual);
        assert_ne!(print(&content[1..], when, "a"), usual);
        content[100] = 8;
        assert_ne!(print(&content, when, "a"), usual);
        // The second half of the rest has other weights.
        content[100] = 7;
        content[BEGINNING as usize + 500_000..].fill(8);
        assert_ne!(print(&content, when, "a"), usual);
    }

    #[test]
    fn a_model_without_a_file_has_one_and_a_missing_file_has_none() {
        assert!(of(None, "a").unwrap().contains("; a"));
        assert!(of(Some(Path::new("/nowhere/model.gguf")), "a").is_err());
    }
}
