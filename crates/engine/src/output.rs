//! Sends events to the daemon.

use std::io::{self, Write};

use bytes::BytesMut;
use threadrunner_core::encode_frame;
use threadrunner_core::engine_protocol::Event;

/// Collects events and writes those of a step together, with one system call.
#[derive(Debug)]
pub struct EventWriter<W> {
    sink: W,
    buffer: BytesMut,
}

impl<W: Write> EventWriter<W> {
    /// Creates a writer to `sink`, which should not buffer.
    pub fn new(sink: W) -> Self {
        Self { sink, buffer: BytesMut::new() }
    }

    /// Adds an event to the next [`EventWriter::flush`].
    pub fn push(&mut self, event: &Event) {
        if let Err(error) = encode_frame(event, &mut self.buffer) {
            tracing::error!("cannot send an event: {error}");
        }
    }

    /// Writes the collected events. Blocks while the daemon does not read. If the daemon dies
    /// meanwhile, this fails and the reader ends the process.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.sink.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Returns the sink.
    pub fn into_inner(self) -> W {
        self.sink
    }
}
