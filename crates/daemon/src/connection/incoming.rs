//! Incoming frames: each within a time limit, and large ones within a shared budget of memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use threadrunner_core::{ErrorCode, Failure, FrameCodec, FrameError};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep_until};
use tokio_util::codec::Decoder;

use crate::halves::ReadHalf;
use crate::peers::Peer;
use crate::room::{Piece, SMALL};

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// For one frame, from its first byte to its last.
    frame: Duration,
    /// To send its next request, while none is in progress.
    idle: Duration,
}

const LIMITS: Limits = Limits { frame: Duration::from_secs(60), idle: Duration::from_secs(600) };
/// Bytes per read, first while the frame's length is unknown, then when it is known.
const READ: usize = 4 << 10;
const READ_LARGE: usize = 256 << 10;
const HEADER: usize = 4;

/// A frame, and its room if it is large.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) json: Bytes,
    pub(super) room: Option<Piece>,
}

/// Why no more frames come.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The connection is lost.
    Lost,
    /// The client is told, and the connection ends.
    Refused(Failure),
}

/// The receiving side of a connection.
#[derive(Debug)]
pub(super) struct Incoming {
    stream: ReadHalf,
    peer: Arc<Peer>,
    limits: Limits,
    buffer: BytesMut,
    /// When the first byte of the incomplete frame arrived.
    begun: Option<Instant>,
    /// The incomplete frame's room, if it is large.
    room: Option<Piece>,
}

impl Incoming {
    pub(super) fn new(stream: ReadHalf, peer: Arc<Peer>) -> Self {
        Self { stream, peer, limits: LIMITS, buffer: BytesMut::new(), begun: None, room: None }
    }

    pub(super) fn stream(&self) -> &ReadHalf {
        &self.stream
    }

    /// Returns the next frame, or `None` when no more come: the client closed its sending half, or
    /// has been idle for too long.
    ///
    /// Cancel safe: dropping the future loses no frame.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Trouble> {
        loop {
            match FrameCodec.decode(&mut self.buffer) {
                Ok(Some(json)) => return Ok(Some(self.whole(json))),
                Ok(None) => {}
                Err(error) => return Err(refused(&error)),
            }
            if !self.buffer.is_empty() {
                self.begun.get_or_insert_with(Instant::now);
            }
            let missing = self.missing();
            if missing > SMALL && self.room.is_none() {
                let length = self.buffer.len() + missing;
                let room = self.peer.all.incoming.take(length).await;
                let mut room = room.map_err(Trouble::Refused)?;
                room.is_theirs(&self.peer.gone);
                self.room = Some(room);
                // The daemon waited here, not the client: restart the frame's time limit.
                self.begun = Some(Instant::now());
            }
            let most = if missing == 0 { READ } else { missing.min(READ_LARGE) };
            if self.buffer.capacity() - self.buffer.len() < most {
                self.buffer.reserve(most);
            }
            let deadline = match self.begun {
                Some(begun) => begun + self.limits.frame,
                None => Instant::now() + self.limits.idle.saturating_sub(self.peer.idle_for()),
            };
            let mut part = (&mut self.stream).take(most as u64);
            let read = tokio::select! {
                biased;
                read = part.read_buf(&mut self.buffer) => Some(read),
                () = sleep_until(deadline) => None,
            };
            match read {
                Some(Ok(1..)) => self.peer.note_sent(),
                Some(Err(_)) => return Err(Trouble::Lost),
                // A request was in progress when this read began.
                None if self.begun.is_none() && self.peer.idle_for() < self.limits.idle => {}
                // End of stream, or a time limit is over.
                Some(Ok(0)) | None => {
                    return match FrameCodec.decode_eof(&mut self.buffer) {
                        Ok(_) => Ok(None),
                        Err(error) => Err(refused(&error)),
                    };
                }
            }
        }
    }

    fn whole(&mut self, json: Bytes) -> Frame {
        self.begun = None;
        let mut room = self.room.take();
        if let Some(room) = &mut room {
            room.is_ours();
        }
        if json.len() > READ {
            // Do not keep a large frame's memory with its connection.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        Frame { json, room }
    }

    /// How many bytes the incomplete frame still lacks; 0 if its length is unknown.
    fn missing(&self) -> usize {
        self.buffer.first_chunk::<HEADER>().map_or(0, |header| {
            (HEADER + u32::from_le_bytes(*header) as usize).saturating_sub(self.buffer.len())
        })
    }
}

fn refused(error: &FrameError) -> Trouble {
    Trouble::Refused(
        Failure::new(ErrorCode::BadFrame, error.to_string())
            .hint("a frame is a 4-byte little-endian length and that many bytes of JSON"),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::halves::{self, WriteHalf};
    use crate::peers::Peers;
    use threadrunner_core::protocol::Op;

    const SOON: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_secs(600);

    fn pair(frame: Duration, idle: Duration) -> (Incoming, WriteHalf, ReadHalf) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ours = halves::split(ours).unwrap().0;
        let (their_read, their_write) = halves::split(theirs).unwrap();
        let peer = Peers::new(1).admit().unwrap();
        let incoming = Incoming { limits: Limits { frame, idle }, ..Incoming::new(ours, peer) };
        (incoming, their_write, their_read)
    }

    #[tokio::test]
    async fn frames_come_one_by_one_also_where_they_came_together_or_are_large() {
        let (mut incoming, mut theirs, _read) = pair(LATE, LATE);
        let lengths = [2, 0, 60_000, 3, 5 * SMALL, 1];
        let writing = tokio::spawn(async move {
            let mut bytes = Vec::new();
            for length in lengths {
                bytes.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
                bytes.extend_from_slice(&vec![b'x'; length]);
            }
            theirs.write_all(&bytes).await.unwrap();
            theirs.shutdown();
        });
        for length in lengths {
            let frame = incoming.next().await.unwrap().unwrap();
            assert_eq!((frame.json.len(), frame.room.is_some()), (length, length == 5 * SMALL));
        }
        assert!(incoming.next().await.unwrap().is_none());
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn a_frame_that_comes_drop_by_drop_has_its_time_from_its_first_byte() {
        let (mut incoming, mut theirs, _read) = pair(SOON, LATE);
        let dripping = tokio::spawn(async move {
            theirs.write_all(&1000_u32.to_le_bytes()).await.unwrap();
            while theirs.write_all(b"x").await.is_ok() {
                tokio::time::sleep(SOON / 10).await;
            }
        });
        let refused = incoming.next().await.unwrap_err();
        assert!(
            matches!(&refused, Trouble::Refused(failure) if failure.code == ErrorCode::BadFrame)
        );
        drop(incoming);
        dripping.await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_is_kept_for_as_long_as_a_request_is_under_way() {
        let (mut incoming, _theirs, _read) = pair(LATE, SOON);
        let request = incoming.peer.begin(&Op::Ps).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ending = over.clone();
        tokio::spawn(async move {
            tokio::time::sleep(3 * SOON).await;
            ending.store(true, Ordering::Release);
            drop(request);
        });
        assert!(incoming.next().await.unwrap().is_none());
        assert!(over.load(Ordering::Acquire));
    }
}
