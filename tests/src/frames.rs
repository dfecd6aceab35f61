//! A client that speaks frames and knows nothing else, like the clients of other programs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use bytes::BytesMut;
use serde_json::Value;
use threadrunner_core::{decode_frame, encode_frame};

use crate::wait::PATIENCE;

/// A connection to a daemon or an engine.
#[derive(Debug)]
pub struct Frames {
    stream: UnixStream,
    buffer: BytesMut,
}

impl Frames {
    /// Connects to a running daemon.
    ///
    /// # Panics
    /// If nothing listens.
    pub fn connect(socket: &Path) -> Self {
        let stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error) => panic!("nobody listens on {}: {error}", socket.display()),
        };
        Self::of(stream)
    }

    /// Uses an open connection, such as an engine's.
    ///
    /// # Panics
    /// If the stream takes no timeout.
    pub fn of(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        Self { stream, buffer: BytesMut::new() }
    }

    /// Sends one frame.
    ///
    /// # Panics
    /// If the daemon has closed the connection.
    pub fn send(&mut self, value: &Value) {
        let mut bytes = BytesMut::new();
        encode_frame(value, &mut bytes).expect("a test's frame is a frame");
        self.send_bytes(&bytes);
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// If the daemon has closed the connection.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the daemon reads");
    }

    /// Closes the sending half.
    ///
    /// # Panics
    /// If that fails.
    pub fn close_sending(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("the half can be closed");
    }

    /// The next frame; `None` if the daemon has closed the connection.
    ///
    /// # Panics
    /// If none arrives within a minute, or it is malformed.
    pub fn receive(&mut self) -> Option<Value> {
        loop {
            if let Some(value) = decode_frame(&mut self.buffer).expect("the daemon sends frames") {
                return Some(value);
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no frame came: {error}"),
            }
        }
    }

    /// The frames of an answer, including the last.
    ///
    /// # Panics
    /// If the connection ends before the answer does.
    pub fn answer(&mut self) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            let frame = self.receive().expect("an answer has an end");
            let last =
                frame["eos"] == true || frame.get("error").is_some() || frame.get("data").is_some();
            frames.push(frame);
            if last {
                return frames;
            }
        }
    }

    /// Sends a request and returns the frames of its answer.
    pub fn ask(&mut self, request: &Value) -> Vec<Value> {
        self.send(request);
        self.answer()
    }

    /// Joins the text in an answer's frames.
    pub fn text(frames: &[Value]) -> String {
        frames.iter().filter_map(|frame| frame["token"].as_str()).collect()
    }
}
