//! The file format of a session's state. Numbers are little-endian.
//!
//! ```text
//! offset  bytes  content
//! 0       8      magic
//! 8       4      version
//! 12      4      length of the fingerprint, in bytes
//! 16      8      number of tokens
//! 24      8      length of the state, in bytes
//! 32      4      CRC-32 of the state
//! 36      4      CRC-32 of bytes 0 to 35, the fingerprint and the tokens
//! 40             fingerprint, tokens (4 bytes each), state
//! ```

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crc32fast::Hasher;
use threadrunner_core::TokenId;

const MAGIC: [u8; 8] = *b"TRstate\n";
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;
/// The number of bytes before the fingerprint.
const PREFIX: usize = 40;
/// The offset of the second checksum, which covers the bytes before it, the fingerprint and the
/// tokens.
const CHECKED: usize = 36;
/// The longest fingerprint, in bytes.
const MOST_FINGERPRINT: u64 = 4096;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// Reading failed.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is another kind of file.
    #[error("it is not a saved state")]
    NoState,
    /// It was written in another version of the format.
    #[error("it has version {0} of the format")]
    Version(u32),
    /// It was cut short or changed.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It belongs to another model or build, or to cells kept in another format.
    #[error("it belongs to another model or engine")]
    Foreign,
}

impl Unusable {
    /// Whether the file is to blame, so that it will never be usable.
    pub(super) fn for_good(&self) -> bool {
        !matches!(self, Self::Io(_))
    }
}

/// An open file whose header was read and verified. The state itself was not.
#[derive(Debug)]
pub(super) struct Opened {
    file: File,
    /// The tokens that the state covers.
    pub(super) tokens: Vec<TokenId>,
    bytes: usize,
    checksum: u32,
}

/// Opens the file at `path`, if it has this fingerprint. `None` if there is no file.
pub(super) fn open(path: &Path, fingerprint: &str) -> Result<Option<Opened>, Unusable> {
    // Writable, so that `note_use` can write.
    let mut file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Unusable::NoState);
    }
    let mut prefix = [0; PREFIX];
    exactly(&mut file, &mut prefix)?;
    if prefix[..8] != MAGIC {
        return Err(Unusable::NoState);
    }
    let version = u32_at(&prefix, 8);
    if version != VERSION {
        return Err(Unusable::Version(version));
    }
    let (named, tokens) = (u64::from(u32_at(&prefix, 12)), u64_at(&prefix, 16));
    let bytes = u64_at(&prefix, 24);
    let header = tokens.checked_mul(4).and_then(|tokens| tokens.checked_add(named));
    let all = header
        .and_then(|header| header.checked_add(bytes))
        .and_then(|rest| rest.checked_add(PREFIX as u64));
    // Checked before allocating: the header cannot demand more memory than the file has bytes.
    if named > MOST_FINGERPRINT || all != Some(metadata.len()) {
        return Err(Unusable::Damaged("its length does not match its header"));
    }
    let size = |n: Option<u64>| n.and_then(|n| usize::try_from(n).ok());
    let (Some(header), Some(bytes)) = (size(header), size(Some(bytes))) else {
        return Err(Unusable::Damaged("it is larger than the address space"));
    };
    let mut rest = vec![0; header];
    exactly(&mut file, &mut rest)?;
    let mut hasher = Hasher::new();
    hasher.update(&prefix[..CHECKED]);
    hasher.update(&rest);
    if hasher.finalize() != u32_at(&prefix, CHECKED) {
        return Err(Unusable::Damaged("the checksum of its header is wrong"));
    }
    let (name, tokens) = rest.split_at(usize::try_from(named).unwrap_or(header));
    if name != fingerprint.as_bytes() {
        return Err(Unusable::Foreign);
    }
    let token = |bytes: &[u8; 4]| TokenId(i32::from_le_bytes(*bytes));
    let tokens = tokens.as_chunks().0.iter().map(token).collect();
    Ok(Some(Opened { file, tokens, bytes, checksum: u32_at(&prefix, 32) }))
}

impl Opened {
    /// Reads and verifies the state, and notes that it was used.
    pub(super) fn state(mut self) -> Result<Vec<u8>, Unusable> {
        let mut state = Vec::new();
        state.try_reserve_exact(self.bytes).map_err(io::Error::other)?;
        Read::by_ref(&mut self.file).take(self.bytes as u64).read_to_end(&mut state)?;
        if state.len() != self.bytes {
            return Err(Unusable::Damaged("it is cut short"));
        }
        if crc32fast::hash(&state) != self.checksum {
            return Err(Unusable::Damaged("the checksum of its state is wrong"));
        }
        if let Err(error) = self.note_use() {
            tracing::debug!("cannot note the time a state was used: {error}");
        }
        Ok(state)
    }

    /// Rewrites a byte to set the file's modification time, which nothing else can do behind the
    /// fence.
    fn note_use(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&MAGIC[..1])
    }
}

/// The length that the file will have, in bytes.
pub(super) fn length(fingerprint: &str, tokens: &[TokenId], state: &[u8]) -> u64 {
    (PREFIX + fingerprint.len() + 4 * tokens.len() + state.len()) as u64
}

/// Writes the file at `path`, which must not hold a state that is still needed.
pub(super) fn write(
    path: &Path,
    fingerprint: &str,
    tokens: &[TokenId],
    state: &[u8],
) -> io::Result<()> {
    let mut header = Vec::with_capacity(PREFIX + fingerprint.len() + 4 * tokens.len());
    header.extend(MAGIC);
    header.extend(VERSION.to_le_bytes());
    header.extend(u32::try_from(fingerprint.len()).map_err(io::Error::other)?.to_le_bytes());
    header.extend((tokens.len() as u64).to_le_bytes());
    header.extend((state.len() as u64).to_le_bytes());
    header.extend(crc32fast::hash(state).to_le_bytes());
    header.extend([0; PREFIX - CHECKED]);
    header.extend(fingerprint.as_bytes());
    header.extend(tokens.iter().flat_map(|token| token.0.to_le_bytes()));
    let mut hasher = Hasher::new();
    hasher.update(&header[..CHECKED]);
    hasher.update(&header[PREFIX..]);
    header[CHECKED..PREFIX].copy_from_slice(&hasher.finalize().to_le_bytes());
    let mut file = File::create(path)?;
    file.write_all(&header)?;
    file.write_all(state)
    // Not synced: a power failure may tear the file, which its checksums reveal.
}

fn exactly(file: &mut File, bytes: &mut [u8]) -> Result<(), Unusable> {
    file.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Unusable::Damaged("it is cut short"),
        _ => Unusable::Io(error),
    })
}

fn u32_at(bytes: &[u8; PREFIX], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8; PREFIX], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
