//! What a state is of: a text that differs where the cells of one do not fit the other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use crc32fast::Hasher;

use crate::{gguf, self_test};

/// How much of the beginning of a model file is looked at: what it says of itself, for most all of
/// it.
const BEGINNING: u64 = 16 << 20;
/// How many places in the rest of it.
const SAMPLES: u64 = 64;
/// Bytes at each.
const SAMPLE: u64 = 4096;

/// The fingerprint of the model at `model`, cached as `format` says.
///
/// The cells follow from the weights, but reading all of these would take longer than reading the
/// prompt again. So it is the file's size, when it was written, its beginning, and samples of the
/// rest, which tell models apart that are alike but for their weights and were unpacked with a time
/// of long ago.
pub(super) fn of(model: Option<&Path>, format: &str) -> io::Result<String> {
    let (version, build) = (env!("CARGO_PKG_VERSION"), self_test::BUILD);
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
        // One half of the rest is other weights.
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
