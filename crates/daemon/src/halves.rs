//! The two halves of a Unix socket, each waking the daemon only for its own direction.
//!
//! tokio's own stream registers for both directions at once. So whenever the other side reads what
//! was written, the daemon wakes up to learn that it can write more, which it does not need: once
//! for every token, on processors that are busy computing the next one. Here, a write is tried
//! first, and waits for readiness only if it would block.

use std::borrow::Borrow;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::time::timeout;

/// Bytes per write. The system frees a write's memory when all of it is read, so with small ones it
/// shows early that a slow client reads.
const PART: usize = 16 << 10;
/// How often to try to write on. The system reports room only once three quarters of the buffer are
/// free, which for a slow client takes long.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// The receiving half.
#[derive(Debug)]
pub(crate) struct ReadHalf(AsyncFd<Arc<UnixStream>>);

/// The sending half.
#[derive(Debug)]
pub(crate) struct WriteHalf(Arc<UnixStream>);

/// Splits a stream. It is closed when both halves are dropped. Call it within a runtime.
///
/// # Errors
/// If the system cannot watch the stream.
pub(crate) fn split(stream: UnixStream) -> io::Result<(ReadHalf, WriteHalf)> {
    stream.set_nonblocking(true)?;
    let stream = Arc::new(stream);
    Ok((ReadHalf(watch(stream.clone(), Interest::READABLE)?), WriteHalf(stream)))
}

/// Registers a stream for one direction.
#[expect(
    deprecated,
    reason = "a type could answer with another descriptor each time, so its successor is unsafe; \
              a stream owns the only one that it answers with"
)]
fn watch<T: Borrow<UnixStream> + AsRawFd>(stream: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(stream, interest)
}

impl AsFd for ReadHalf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            match ready.try_io(|stream| stream.get_ref().as_ref().read(unfilled)) {
                Ok(Ok(read)) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl WriteHalf {
    /// Writes all bytes, however long the other side takes to make room. Once it has to wait, it
    /// calls `note` then and after each part that it writes, with whether bytes are left.
    ///
    /// # Errors
    /// Errors of the socket. Part of the bytes may have been written.
    pub(crate) async fn write_noting(
        &mut self,
        mut bytes: &[u8],
        mut note: impl FnMut(bool),
    ) -> io::Result<()> {
        let mut waited = false;
        while !bytes.is_empty() {
            match self.0.as_ref().write(&bytes[..bytes.len().min(PART)]) {
                Ok(written) => {
                    bytes = &bytes[written..];
                    if waited {
                        note(!bytes.is_empty());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !waited {
                        waited = true;
                        note(true);
                    }
                    // Otherwise, the time is over.
                    if let Ok(room) = timeout(TRY_EVERY, self.room()).await {
                        room?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until there is room. Registers a duplicate descriptor, because a descriptor can be
    /// registered only once.
    async fn room(&self) -> io::Result<()> {
        let watched = watch(self.0.try_clone()?, Interest::WRITABLE)?;
        let _ready = watched.writable().await?;
        Ok(())
    }

    /// Like [`WriteHalf::write_noting`], without notes.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_noting(bytes, |_| ()).await
    }

    /// Shuts this direction down: the other side reads the end of the stream.
    pub(crate) fn shutdown(&self) {
        // At worst, the other side has closed it already.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn more_than_a_socket_holds_arrives_whole_and_in_order_both_ways() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut read, mut write) = split(ours).unwrap();
        let (mut their_read, mut their_write) = split(theirs).unwrap();
        let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
        let there = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown();
            let mut back = Vec::new();
            read.read_to_end(&mut back).await.unwrap();
            back
        };
        let echo = async {
            let mut heard = Vec::new();
            their_read.read_to_end(&mut heard).await.unwrap();
            their_write.write_all(&heard).await.unwrap();
            their_write.shutdown();
        };
        let (back, ()) = tokio::join!(there, echo);
        assert!(back == sent, "{} bytes", back.len());
    }

    #[tokio::test]
    async fn a_slow_reader_is_seen_to_read_and_one_that_stopped_is_not() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (_read, mut write) = split(ours).unwrap();
        let notes = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let noted = notes.clone();
        let writing = tokio::spawn(async move {
            let note = |_| {
                noted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            };
            write.write_noting(&[0; 4_000_000], note).await
        });
        let count = async || {
            tokio::time::sleep(2 * TRY_EVERY).await;
            notes.load(std::sync::atomic::Ordering::Relaxed)
        };
        assert_eq!(count().await, 1);
        theirs.read_exact(&mut [0; 2 * PART]).unwrap();
        let some = count().await;
        assert!(some > 1);
        assert_eq!(count().await, some);
        writing.abort();
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_an_error_and_no_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_read, mut write) = split(ours).unwrap();
        drop(theirs);
        let error = write.write_all(b"hello").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
