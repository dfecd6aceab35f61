//! Walks a GGUF file's header, metadata and tensor table within bounds.
//!
//! llama.cpp has checks of its own, but reports what failed only in its log, and what it does not
//! check can abort the process. So the header is read here first: a few megabytes, in a few
//! milliseconds.

use std::io::{self, Read};

use super::GgmlType;
use super::shape::{Count, MOST_LAYERS, MOST_SIGNED, Shape, TOKENS};

const MAGIC: [u8; 4] = *b"GGUF";
/// The longest key that the specification allows, in bytes.
const MAX_KEY_BYTES: u64 = 65_535;
/// llama.cpp's `GGML_MAX_NAME`, less the terminating zero.
const MAX_TENSOR_NAME_BYTES: u64 = 63;
/// llama.cpp's `GGML_MAX_DIMS`.
const MAX_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;
/// More than any model has, but few enough to walk.
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;
/// The longest header, in bytes. Vocabularies take some millions.
const MAX_HEADER: u64 = 1 << 30;
/// The maximum number of strings in a list; no vocabulary has a tenth of them. Bounds the time that
/// a walk takes, even in a file that is long only because it is sparse.
const MAX_STRINGS: u64 = 1 << 24;
/// The longest string that is kept, in bytes; longer ones are skipped.
const MAX_KEPT_BYTES: u64 = 4096;

/// What a complete GGUF file says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The format version: 2 or 3.
    pub version: u32,
    /// `general.architecture`: the model family, by llama.cpp's name.
    pub architecture: String,
    /// `general.name`.
    pub name: Option<String>,
    /// The number of tensors.
    pub tensors: u64,
    /// The length that the file needs for its tensors to be complete, in bytes.
    pub bytes: u64,
    /// The dimensions that determine its memory use.
    pub shape: Shape,
}

/// Why a file cannot be loaded as GGUF.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Reading failed.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is another kind of file. Holds its first bytes.
    #[error("it is not a GGUF file: it begins with {} instead of \"GGUF\"{}", .0.escape_ascii(), resembles(.0))]
    Magic(Vec<u8>),
    /// It has the other byte order.
    #[error("it was made for a machine with the other byte order")]
    ByteOrder,
    /// It has a version that llama.cpp cannot read.
    #[error("it has format version {0}, but only 2 and 3 can be read")]
    Version(u32),
    /// It ends early.
    #[error("it is cut short: {what} needs {needs} bytes, but the file has {has}")]
    Truncated {
        /// What is incomplete.
        what: String,
        /// The length that the file needs at least, in bytes.
        needs: u64,
        /// Its actual length, in bytes.
        has: u64,
    },
    /// A count or length is too large.
    #[error("its header is damaged: {what} is {value}, but at most {limit} is possible")]
    TooBig {
        /// The count or length.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The largest value accepted.
        limit: u64,
    },
    /// Something else violates the format.
    #[error("its header is damaged: {0}")]
    Damaged(String),
}

/// What a file that is not GGUF looks like, to help the user.
fn resembles(start: &[u8]) -> &'static str {
    match start {
        [b'v', b'e', b'r', b's', ..] => " (a Git LFS pointer: the model itself was not downloaded)",
        [b'<', ..] => " (a web page: the download failed)",
        [b'P', b'K', ..] => " (a ZIP or PyTorch file)",
        [b'g', b'g', b'j', b't'] | [b't', b'j', b'g', b'g'] => " (the format before GGUF)",
        [0x1f, 0x8b, ..] => " (a gzip file: unpack it first)",
        [] => " (it is empty)",
        _ => "",
    }
}

/// Checks the GGUF file of `length` bytes that `reader` reads from its beginning.
///
/// # Errors
/// [`CheckError`] says what is wrong with it.
pub fn check(reader: impl Read, length: u64) -> Result<Summary, CheckError> {
    let mut walk = Walk { reader, position: 0, length };
    let mut start = Vec::new();
    walk.reader.by_ref().take(4).read_to_end(&mut start)?;
    if start != MAGIC {
        return Err(CheckError::Magic(start));
    }
    walk.position = 4;

    let version = walk.u32("the header")?;
    if version & 0xffff == 0 && version != 0 {
        return Err(CheckError::ByteOrder);
    }
    if !(2..=3).contains(&version) {
        return Err(CheckError::Version(version));
    }
    let tensors = walk.count("the number of tensors", MAX_TENSORS)?;
    let keys = walk.count("the number of keys", MAX_KEYS)?;

    let mut summary = Summary { version, tensors, ..Summary::default() };
    let mut alignment = DEFAULT_ALIGNMENT;
    for _ in 0..keys {
        let key = walk.string("a key", MAX_KEY_BYTES)?;
        match (key.as_str(), walk.value(&key)?) {
            ("", _) => return Err(CheckError::Damaged("a key is empty".into())),
            ("general.architecture", Value::String(text)) => summary.architecture = text,
            ("general.name", Value::String(text)) => summary.name = Some(text),
            ("general.alignment", Value::Number(value)) => alignment = value,
            (TOKENS, Value::Strings(tokens)) => summary.shape.set_tokens(tokens),
            (key, Value::Number(number)) if Shape::wants(key) => {
                summary.shape.keep(key, Count::One(number));
            }
            (key, Value::Numbers(numbers)) if Shape::wants(key) => {
                summary.shape.keep(key, Count::Each(numbers));
            }
            _ => {}
        }
    }
    if summary.architecture.is_empty() {
        return Err(CheckError::Damaged("it names no architecture".into()));
    }
    summary.shape.set_architecture(&summary.architecture);
    if let Some((what, value)) = summary.shape.too_large() {
        return Err(CheckError::TooBig { what, value, limit: MOST_SIGNED });
    }
    if !alignment.is_power_of_two() {
        return Err(CheckError::Damaged(format!("alignment {alignment} is not a power of two")));
    }

    let mut end_of_data = 0;
    for _ in 0..tensors {
        end_of_data = end_of_data.max(walk.tensor(alignment)?);
    }
    summary.bytes = walk
        .position
        .checked_next_multiple_of(alignment)
        .and_then(|start| start.checked_add(end_of_data))
        .ok_or_else(|| CheckError::Damaged("its tensors end past 2^64 bytes".into()))?;
    if summary.bytes > length {
        return Err(walk.truncated("its tensor data", summary.bytes));
    }
    Ok(summary)
}

/// A metadata value, as far as this check needs it.
enum Value {
    String(String),
    Number(u64),
    /// The numbers of a list, if there are at most as many as layers in a model.
    Numbers(Vec<u64>),
    /// A list of this many strings.
    Strings(u64),
    Other,
}

/// A reader that tracks its position and the length of the file.
struct Walk<R> {
    reader: R,
    position: u64,
    length: u64,
}

impl<R: Read> Walk<R> {
    fn truncated(&self, what: &str, needs: u64) -> CheckError {
        CheckError::Truncated { what: what.to_owned(), needs, has: self.length }
    }

    /// Claims the next `bytes` of the file, before reading them or allocating memory for them.
    fn advance(&mut self, what: &str, bytes: u64) -> Result<(), CheckError> {
        let end = self.position.saturating_add(bytes);
        if end > self.length {
            return Err(self.truncated(what, end));
        }
        if end > MAX_HEADER {
            let what = "the length of its header";
            return Err(CheckError::TooBig { what, value: end, limit: MAX_HEADER });
        }
        self.position = end;
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], CheckError> {
        self.advance(what, N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, CheckError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, CheckError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn count(&mut self, what: &'static str, limit: u64) -> Result<u64, CheckError> {
        match self.u64(what)? {
            value if value > limit => Err(CheckError::TooBig { what, value, limit }),
            value => Ok(value),
        }
    }

    fn skip(&mut self, what: &str, bytes: u64) -> Result<(), CheckError> {
        self.advance(what, bytes)?;
        let skipped = io::copy(&mut self.reader.by_ref().take(bytes), &mut io::sink())?;
        if skipped < bytes {
            return Err(self.truncated(what, self.position));
        }
        Ok(())
    }

    fn string(&mut self, what: &'static str, limit: u64) -> Result<String, CheckError> {
        let bytes = self.u64(what)?;
        if bytes > limit {
            return Err(CheckError::TooBig { what, value: bytes, limit });
        }
        self.advance(what, bytes)?;
        let mut text = Vec::new();
        self.reader.by_ref().take(bytes).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn value(&mut self, key: &str) -> Result<Value, CheckError> {
        const STRING: u32 = 8;
        const ARRAY: u32 = 9;
        let what = format!("the value of {key}");
        match self.u32(&what)? {
            // A number from 0 up reads the same, signed or unsigned.
            4 | 5 => Ok(Value::Number(self.u32(&what)?.into())),
            10 | 11 => Ok(Value::Number(self.u64(&what)?)),
            STRING => {
                let bytes = self.u64(&what)?;
                if bytes > MAX_KEPT_BYTES {
                    self.skip(&what, bytes)?;
                    return Ok(Value::Other);
                }
                self.advance(&what, bytes)?;
                let mut text = Vec::new();
                self.reader.by_ref().take(bytes).read_to_end(&mut text)?;
                Ok(Value::String(String::from_utf8_lossy(&text).into_owned()))
            }
            ARRAY => {
                let kind = self.u32(&what)?;
                let elements = self.u64(&what)?;
                if kind == STRING {
                    if elements > MAX_STRINGS {
                        let what = "the number of strings in a list";
                        let (value, limit) = (elements, MAX_STRINGS);
                        return Err(CheckError::TooBig { what, value, limit });
                    }
                    for _ in 0..elements {
                        let bytes = self.u64(&what)?;
                        self.skip(&what, bytes)?;
                    }
                    return Ok(Value::Strings(elements));
                }
                if matches!(kind, 4 | 5) && elements <= MOST_LAYERS && Shape::wants(key) {
                    let numbers = (0..elements).map(|_| Ok(self.u32(&what)?.into()));
                    return numbers.collect::<Result<_, CheckError>>().map(Value::Numbers);
                } else {
                    let bytes = scalar_bytes(kind, key)?.saturating_mul(elements);
                    self.skip(&what, bytes)?;
                }
                Ok(Value::Other)
            }
            kind => {
                self.skip(&what, scalar_bytes(kind, key)?)?;
                Ok(Value::Other)
            }
        }
    }

    /// Reads one entry of the tensor table. Returns the offset at which its data ends, from the
    /// start of all tensor data.
    fn tensor(&mut self, alignment: u64) -> Result<u64, CheckError> {
        const WHAT: &str = "the table of tensors";
        let name = self.string("a tensor's name", MAX_TENSOR_NAME_BYTES)?;
        let damaged = |what: &str| CheckError::Damaged(format!("tensor {name:?} {what}"));
        let dimensions = self.u32(WHAT)?;
        if dimensions > MAX_DIMENSIONS {
            return Err(damaged(&format!("has {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.u64(WHAT)?);
        }
        let kind = GgmlType(self.u32(WHAT)?);
        let offset = self.u64(WHAT)?;
        if !offset.is_multiple_of(alignment) {
            return Err(damaged(&format!("begins at {offset}, not a multiple of {alignment}")));
        }
        let bytes = match kind.block() {
            Some(_) => kind
                .bytes(&shape)
                .ok_or_else(|| damaged(&format!("has the impossible shape {shape:?}")))?,
            None => 0,
        };
        offset.checked_add(bytes).ok_or_else(|| damaged("ends past 2^64 bytes"))
    }
}

/// The size in bytes of a metadata value that is neither a string nor an array.
fn scalar_bytes(kind: u32, key: &str) -> Result<u64, CheckError> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(CheckError::Damaged(format!("{key:?} has the unknown type {kind}"))),
    }
}
