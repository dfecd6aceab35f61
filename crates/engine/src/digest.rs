//! The digest of a model's files: what the model is, wherever it lies.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crc32fast::Hasher;
use threadrunner_core::{ModelDigest, fnv};

use crate::gguf;

/// The number of bytes read at the start of a file: for most models, the whole header.
const BEGINNING: u64 = 16 << 20;
/// The number of samples from the rest of the file.
const SAMPLES: u64 = 64;
/// The length of a sample, in bytes.
const SAMPLE: u64 = 4096;

/// The digest of the model at `model` and of its other parts.
///
/// Reading all weights would take as long as loading them from the disk. So the digest covers each
/// file's length and start, and samples of the rest, which tell models apart that differ only in
/// their weights (`docs/adr/0014`).
///
/// # Errors
/// A file cannot be read.
pub fn of(model: &Path) -> io::Result<ModelDigest> {
    let mut sums = Vec::new();
    for part in gguf::parts(model) {
        let file = File::open(&part)?;
        let length = file.metadata()?.len();
        sums.extend(length.to_le_bytes());
        sums.extend(checksum(&file, 0, BEGINNING.min(length))?);
        for sample in 1..=SAMPLES {
            let at = BEGINNING + length.saturating_sub(BEGINNING + SAMPLE) / SAMPLES * sample;
            sums.extend(checksum(&file, at, (at + SAMPLE).min(length))?);
        }
    }
    Ok(ModelDigest::sampled(fnv::hash(&[&sums])))
}

/// The CRC-32 of the bytes from `at` up to `to`, if there are any.
fn checksum(file: &File, mut at: u64, to: u64) -> io::Result<[u8; 4]> {
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; 1 << 16];
    while at < to {
        let most = usize::try_from(to - at).unwrap_or(usize::MAX).min(chunk.len());
        let read = file.read_at(&mut chunk[..most], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&chunk[..read]);
        at += read as u64;
    }
    Ok(hasher.finalize().to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_what_is_in_its_files_and_not_what_they_are_called() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let digest = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            of(&path).unwrap()
        };
        let mut content = vec![7; BEGINNING as usize + 1_000_000];
        let usual = digest(&content);
        let moved = folder.path().join("moved.gguf");
        std::fs::rename(&path, &moved).unwrap();
        assert_eq!(of(&moved).unwrap(), usual);
        assert_ne!(digest(&content[1..]), usual);
        content[100] = 8;
        assert_ne!(digest(&content), usual);
        // The second half of the rest has other weights.
        content[100] = 7;
        content[BEGINNING as usize + 500_000..].fill(8);
        assert_ne!(digest(&content), usual);
        assert_ne!(digest(b""), digest(b"x"));
        assert!(of(&path.with_extension("none")).is_err());
    }

    #[test]
    fn every_part_counts() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] =
            ["1", "2"].map(|part| folder.path().join(format!("m-0000{part}-of-00002.gguf")));
        std::fs::write(&first, "one").unwrap();
        let alone = of(&first).unwrap();
        std::fs::write(&second, "two").unwrap();
        let both = of(&first).unwrap();
        std::fs::write(&second, "two!").unwrap();
        assert!(alone != both && both != of(&first).unwrap());
    }
}
