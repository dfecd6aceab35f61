//! Framing: a 4-byte little-endian length, then that many bytes of UTF-8 JSON holding one object.
//!
//! [`FrameCodec`] splits a stream into frames without parsing them; [`encode_frame`] and
//! [`decode_frame`] convert between frames and values.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::codec::{Decoder, Encoder};

/// The maximum length of a frame, in bytes of JSON: 64 MiB.
pub const MAX_FRAME_BYTES: usize = 64 << 20;

const HEADER_BYTES: usize = 4;

/// Splits a byte stream into frames and writes frames into one. Does not parse JSON.
///
/// Memory for a frame grows with the bytes that arrive, never with the announced length.
#[derive(Debug, Default, Clone, Copy)]
pub struct FrameCodec;

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The announced length, or that of the frame to write, exceeds [`MAX_FRAME_BYTES`].
    #[error("a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES} bytes")]
    TooLong {
        /// The length of the frame, in bytes.
        length: usize,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame: {missing} more bytes were announced")]
    Truncated {
        /// The number of announced bytes that did not arrive.
        missing: usize,
    },
    /// The bytes are not the expected JSON.
    #[error("the frame is not the JSON expected: {}", without_content(.0))]
    Json(#[from] serde_json::Error),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Describes what is wrong with a frame without quoting it: the frame may hold a prompt or an
/// answer, and the description may be logged.
fn without_content(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => {
            format!(
                "a value does not have the expected type at line {} column {}",
                error.line(),
                error.column()
            )
        }
        _ => error.to_string(),
    }
}

impl Decoder for FrameCodec {
    type Item = Bytes;
    type Error = FrameError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let Some(header) = src.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*header) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(FrameError::TooLong { length });
        }
        if src.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        src.advance(HEADER_BYTES);
        Ok(Some(src.split_to(length).freeze()))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        if let Some(frame) = self.decode(src)? {
            return Ok(Some(frame));
        }
        if src.is_empty() {
            return Ok(None);
        }
        let announced = match src.first_chunk::<HEADER_BYTES>() {
            Some(header) => HEADER_BYTES + u32::from_le_bytes(*header) as usize,
            None => HEADER_BYTES,
        };
        Err(FrameError::Truncated { missing: announced - src.len() })
    }
}

impl Encoder<&[u8]> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, json: &[u8], dst: &mut BytesMut) -> Result<(), FrameError> {
        dst.reserve(HEADER_BYTES + json.len());
        dst.put_u32_le(frame_length(json.len())?);
        dst.put_slice(json);
        Ok(())
    }
}

fn frame_length(length: usize) -> Result<u32, FrameError> {
    match u32::try_from(length) {
        Ok(short) if length <= MAX_FRAME_BYTES => Ok(short),
        _ => Err(FrameError::TooLong { length }),
    }
}

/// Writes as many bytes as a frame may have and only counts the rest.
struct Bounded<'a> {
    dst: &'a mut BytesMut,
    length: usize,
}

impl io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len();
        if self.length <= MAX_FRAME_BYTES {
            self.dst.put_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Appends `value` to `dst` as a whole frame, header included.
///
/// # Errors
/// [`FrameError::TooLong`] or [`FrameError::Json`]; `dst` is then unchanged.
pub fn encode_frame<T: Serialize>(value: &T, dst: &mut BytesMut) -> Result<(), FrameError> {
    let start = dst.len();
    dst.put_u32_le(0);
    let mut bounded = Bounded { dst: &mut *dst, length: 0 };
    let written = serde_json::to_writer(&mut bounded, value)
        .map_err(FrameError::from)
        .and_then(|()| frame_length(bounded.length));
    match written {
        Ok(length) => {
            dst[start..start + HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
            Ok(())
        }
        Err(error) => {
            dst.truncate(start);
            Err(error)
        }
    }
}

/// The length of `value` as JSON, in bytes; 0 if it cannot be serialized.
pub fn json_length<T: Serialize>(value: &T) -> usize {
    let mut counted = Count(0);
    serde_json::to_writer(&mut counted, value).map_or(0, |()| counted.0)
}

struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes the next whole frame from `src` and parses it as a `T`; `None` if no frame is complete.
///
/// # Errors
/// [`FrameError::TooLong`] or [`FrameError::Json`].
pub fn decode_frame<T: DeserializeOwned>(src: &mut BytesMut) -> Result<Option<T>, FrameError> {
    match FrameCodec.decode(src)? {
        Some(frame) => Ok(Some(serde_json::from_slice(&frame)?)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn a_complaint_about_a_frame_says_nothing_of_what_is_in_it() {
        let mut buffer = BytesMut::new();
        encode_frame(&serde_json::json!({"id": "my secret"}), &mut buffer).unwrap();
        #[derive(Debug, serde::Deserialize)]
        struct Numbered {
            #[expect(dead_code, reason = "never read: it is of the wrong kind")]
            id: u64,
        }
        let complaint = decode_frame::<Numbered>(&mut buffer).unwrap_err().to_string();
        assert!(
            complaint.contains("line 1 column") && !complaint.contains("secret"),
            "{complaint}"
        );
    }

    #[test]
    fn a_frame_is_a_little_endian_length_and_json() {
        let mut bytes = BytesMut::new();
        encode_frame(&json!({"v": 1}), &mut bytes).unwrap();
        assert_eq!(&bytes[..], b"\x07\0\0\0{\"v\":1}");
    }

    #[test]
    fn an_oversized_length_is_refused_before_its_bytes_arrive() {
        let mut bytes = BytesMut::from(&(MAX_FRAME_BYTES as u32 + 1).to_le_bytes()[..]);
        assert!(matches!(FrameCodec.decode(&mut bytes), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn half_a_frame_at_the_end_is_truncated() {
        let mut bytes = BytesMut::from(&b"\x07\0\0\0{\"v\""[..]);
        assert!(FrameCodec.decode(&mut bytes).unwrap().is_none());
        assert!(matches!(
            FrameCodec.decode_eof(&mut bytes),
            Err(FrameError::Truncated { missing: 3 })
        ));
        let mut header = BytesMut::from(&b"\x07\0"[..]);
        assert!(matches!(
            FrameCodec.decode_eof(&mut header),
            Err(FrameError::Truncated { missing: 2 })
        ));
    }

    #[test]
    fn a_frame_too_long_to_send_leaves_the_buffer_as_it_was() {
        let mut bytes = BytesMut::from(&b"before"[..]);
        // JSON writes each NUL as six bytes.
        let long = "\0".repeat(MAX_FRAME_BYTES / 2);
        let length = MAX_FRAME_BYTES * 3 + 2;
        assert!(
            matches!(encode_frame(&long, &mut bytes), Err(FrameError::TooLong { length: it }) if it == length)
        );
        assert_eq!(&bytes[..], b"before");
        // A frame that is too long to send is not held in memory either.
        assert!(bytes.capacity() <= 2 * MAX_FRAME_BYTES, "{}", bytes.capacity());
        assert_eq!(json_length(&long), length);
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(texts in prop::collection::vec(".*", 0..8), cut in 1usize..16) {
            let mut wire = BytesMut::new();
            for text in &texts {
                encode_frame(&json!({"t": text}), &mut wire).unwrap();
            }
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for chunk in wire.chunks(cut) {
                buffer.extend_from_slice(chunk);
                while let Some(value) = decode_frame::<Value>(&mut buffer).unwrap() {
                    seen.push(value["t"].as_str().unwrap().to_owned());
                }
            }
            prop_assert_eq!(seen, texts);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode_frame::<Value>(&mut buffer) {}
            let _ = FrameCodec.decode_eof(&mut buffer);
        }
    }
}
