//! Events to the daemon.

use std::io::{self, Write};

use bytes::BytesMut;
use threadrunner_core::encode_frame;
use threadrunner_core::engine_protocol::Event;

/// Collects events and writes them together: one system call for all of a step.
#[derive(Debug)]
pub struct EventWriter<W> {
    sink: W,
    buffer: BytesMut,
}

impl<W: Write> EventWriter<W> {
    /// A writer to `sink`, which should not buffer.
    pub fn new(sink: W) -> Self {
        Self { sink, buffer: BytesMut::new() }
    }

    /// Adds an event to those that the next [`EventWriter::flush`] writes.
    pub fn push(&mut self, event: &Event) {
        if let Err(error) = encode_frame(event, &mut self.buffer) {
            tracing::error!("an event cannot be sent: {error}");
        }
    }

    /// Writes what was collected. Waits for a daemon that does not read; should it die meanwhile,
    /// this fails and the reader ends the process.
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

    /// What events were written to.
    pub fn into_inner(self) -> W {
        self.sink
    }
}
