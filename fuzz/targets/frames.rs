//! What a client or an engine may send: frames with requests, commands and events.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use threadrunner_core::engine_protocol::{Command, Event};
use threadrunner_core::protocol::Request;
use threadrunner_core::{FrameCodec, decode_frame, encode_frame};
use tokio_util::codec::Decoder;

fuzz_target!(|bytes: &[u8]| {
    let mut stream = BytesMut::from(bytes);
    while let Ok(Some(frame)) = FrameCodec.decode(&mut stream) {
        let _ = Request::parse(&frame);
    }
    let _ = FrameCodec.decode_eof(&mut stream);
    // The bytes as a frame's contents, so that the fuzzer need not discover the length prefix.
    let _ = Request::parse(bytes);
    for kind in [0, 1] {
        let mut stream = BytesMut::new();
        stream.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        stream.extend_from_slice(bytes);
        if kind == 0 {
            if let Ok(Some(command)) = decode_frame::<Command>(&mut stream) {
                says_the_same_again(&command);
            }
        } else if let Ok(Some(event)) = decode_frame::<Event>(&mut stream) {
            says_the_same_again(&event);
        }
    }
});

/// A value that was parsed can be parsed again after encoding it.
fn says_the_same_again<T>(value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let mut stream = BytesMut::new();
    if encode_frame(value, &mut stream).is_ok() {
        assert!(matches!(decode_frame::<T>(&mut stream), Ok(Some(_))), "not what was understood");
    }
}
