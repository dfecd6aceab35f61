//! Receives commands from the daemon.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Instant;

use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use threadrunner_core::engine_protocol::Command;
use threadrunner_core::{FrameCodec, FrameError, Interrupt, Priority, decode_frame};
use tokio_util::codec::Decoder;

/// The maximum number of commands that wait for the loop. The reader reads no more until one is
/// taken.
pub const MAX_WAITING: usize = 1024;

/// A command and its arrival time.
#[derive(Debug)]
pub struct Received {
    /// When its last byte was read.
    pub at: Instant,
    /// The command.
    pub command: Command,
}

/// Decodes the commands of a stream, one after the other.
#[derive(Debug)]
pub struct Commands {
    stream: UnixStream,
    buffer: BytesMut,
    chunk: Vec<u8>,
}

impl Commands {
    /// Decodes the commands that come through `stream`.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: BytesMut::new(), chunk: vec![0; 64 << 10] }
    }

    /// Waits for the next command. `None` means that the stream has ended.
    ///
    /// # Errors
    /// When reading fails, or what came is not a valid frame or command.
    pub fn receive(&mut self) -> Result<Option<Received>, FrameError> {
        loop {
            if let Some(command) = decode_frame(&mut self.buffer)? {
                return Ok(Some(Received { at: Instant::now(), command }));
            }
            self.wait()?;
            match self.stream.read(&mut self.chunk) {
                Ok(0) => {
                    FrameCodec.decode_eof(&mut self.buffer)?;
                    return Ok(None);
                }
                Ok(n) => self.buffer.extend_from_slice(&self.chunk[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // The daemon died and left events of ours unread.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until there is something to read. A thread that blocks in `read` itself is also woken
    /// when the daemon reads an event, which happens for every token.
    fn wait(&self) -> Result<(), FrameError> {
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(FrameError::Io(error.into())),
        }
    }
}

/// Passes commands on until the stream ends or the receiver is gone. A `Cancel` also asks the
/// running forward pass to end early, if it is long. An interactive request does so too.
///
/// # Errors
/// When reading fails, or what came is not a valid frame or command.
pub fn pass_commands_on(
    mut commands: Commands,
    to: &SyncSender<Received>,
    interrupt: &Interrupt,
) -> Result<(), FrameError> {
    while let Some(received) = commands.receive()? {
        let cancels = matches!(received.command, Command::Cancel { .. });
        let interactive = matches!(
            &received.command,
            Command::Generate(generate) if generate.priority == Priority::Interactive
        );
        if !pass_on(&commands.stream, to, received)? {
            return Ok(());
        }
        // Only after passing it on, so that a forward pass that ends early finds it waiting.
        if cancels {
            interrupt.ask();
        }
        if interactive {
            interrupt.ask_for_interactive();
        }
    }
    Ok(())
}

/// Waits for room among the commands, but not past the end of the stream: loading may take long.
/// Returns whether the command was passed on.
fn pass_on(
    stream: &UnixStream,
    commands: &SyncSender<Received>,
    mut received: Received,
) -> Result<bool, FrameError> {
    loop {
        received = match commands.try_send(received) {
            Ok(()) => return Ok(true),
            Err(TrySendError::Disconnected(_)) => return Ok(false),
            Err(TrySendError::Full(received)) => received,
        };
        let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 })) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(false),
            Err(error) => return Err(FrameError::Io(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc::sync_channel;

    use threadrunner_core::encode_frame;

    use super::*;
    use threadrunner_core::engine_protocol::EngineRequestId;

    /// Passes on these bytes and the end of the stream, with room for `room` commands.
    fn read(bytes: &[u8], room: usize) -> (Result<(), FrameError>, Vec<Command>) {
        let (mut daemon, engine) = UnixStream::pair().unwrap();
        daemon.write_all(bytes).unwrap();
        drop(daemon);
        let (sender, receiver) = sync_channel(room);
        let end = pass_commands_on(Commands::new(engine), &sender, &Interrupt::default());
        drop(sender);
        (end, receiver.iter().map(|received| received.command).collect())
    }

    fn cancels(ids: std::ops::Range<u64>) -> (Vec<u8>, Vec<Command>) {
        let commands: Vec<Command> =
            ids.map(|id| Command::Cancel { id: EngineRequestId(id) }).collect();
        let mut bytes = BytesMut::new();
        for command in &commands {
            encode_frame(command, &mut bytes).unwrap();
        }
        (bytes.to_vec(), commands)
    }

    #[test]
    fn every_command_before_the_end_is_passed_on() {
        let (bytes, commands) = cancels(0..100);
        let (end, passed_on) = read(&bytes, 100);
        assert!(end.is_ok());
        assert_eq!(passed_on, commands);
    }

    #[test]
    fn the_end_is_seen_behind_commands_that_nobody_takes() {
        let (bytes, commands) = cancels(0..100);
        let (end, passed_on) = read(&bytes, 10);
        assert!(end.is_ok());
        assert_eq!(passed_on, commands[..10]);
    }

    #[test]
    fn half_a_command_is_an_error() {
        let (bytes, _) = cancels(0..1);
        let (end, _) = read(&bytes[..bytes.len() - 3], 10);
        assert!(matches!(end, Err(FrameError::Truncated { missing: 3 })));
    }
}
