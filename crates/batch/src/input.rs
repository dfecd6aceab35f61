//! Reads the lines of the input, on a thread of its own.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use threadrunner_core::MAX_FRAME_BYTES;
use tokio::sync::mpsc;

use crate::error::BatchError;

/// How many lines to read ahead.
const AHEAD: usize = 16;
/// A longer line is not kept in memory: it could not be sent anyway.
const MAX_LINE: usize = MAX_FRAME_BYTES;

/// A line of the input.
#[derive(Debug, PartialEq)]
pub(crate) struct Line {
    /// Counted from 1, with blank lines.
    pub(crate) number: u64,
    /// Its bytes and its newline; `None` if it is longer than [`MAX_LINE`].
    pub(crate) bytes: Option<Vec<u8>>,
}

/// Where a batch reads its lines.
#[derive(Debug)]
pub struct Input {
    file: File,
}

/// Reads from an open file, which may be a pipe.
impl From<File> for Input {
    fn from(file: File) -> Self {
        Self { file }
    }
}

impl Input {
    /// Opens a file.
    ///
    /// # Errors
    /// [`BatchError::Input`].
    pub fn open(path: &Path) -> Result<Self, BatchError> {
        let cannot = |error| BatchError::Input { path: path.to_owned(), error };
        let file = File::open(path).map_err(cannot)?;
        if file.metadata().map_err(cannot)?.is_dir() {
            return Err(cannot(io::ErrorKind::IsADirectory.into()));
        }
        Ok(Self { file })
    }

    /// The open file, to compare with the output.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Counts the lines that are not blank; `None` unless `path` is a regular file and readable.
    pub fn count(path: &Path) -> Option<u64> {
        if !path.metadata().ok()?.is_file() {
            return None;
        }
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path).ok()?);
        let mut lines = 0;
        let mut blank = true;
        loop {
            let buffer = reader.fill_buf().ok()?;
            if buffer.is_empty() {
                return Some(lines + u64::from(!blank));
            }
            for &byte in buffer {
                if byte == b'\n' {
                    lines += u64::from(!blank);
                    blank = true;
                } else if !byte.is_ascii_whitespace() {
                    blank = false;
                }
            }
            let read = buffer.len();
            reader.consume(read);
        }
    }

    /// Starts a thread that reads, because a pipe may block forever.
    pub(crate) fn start(self) -> Result<mpsc::Receiver<io::Result<Line>>, BatchError> {
        let (tell, lines) = mpsc::channel(AHEAD);
        let thread = std::thread::Builder::new().name("input".to_owned());
        let started = thread.spawn(move || {
            let mut reader = BufReader::with_capacity(1 << 16, self.file);
            let mut number = 0;
            while let Some(line) = next_line(&mut reader, &mut number).transpose() {
                let failed = line.is_err();
                // The receiver is gone if the batch ends early.
                if tell.blocking_send(line).is_err() || failed {
                    return;
                }
            }
        });
        started.map_err(BatchError::Thread)?;
        Ok(lines)
    }
}

/// Reads the next line that is not blank.
fn next_line(reader: &mut impl BufRead, number: &mut u64) -> io::Result<Option<Line>> {
    loop {
        let mut bytes = Vec::new();
        let read = reader.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        *number += 1;
        let whole = bytes.ends_with(b"\n") || bytes.len() <= MAX_LINE;
        if !whole {
            reader.skip_until(b'\n')?;
            return Ok(Some(Line { number: *number, bytes: None }));
        }
        if *number == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        if !bytes.trim_ascii().is_empty() {
            return Ok(Some(Line { number: *number, bytes: Some(bytes) }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<(u64, Option<Vec<u8>>)> {
        let (mut reader, mut number, mut found) = (text, 0, Vec::new());
        while let Some(line) = next_line(&mut reader, &mut number).unwrap() {
            found.push((line.number, line.bytes));
        }
        found
    }

    #[test]
    fn blank_lines_count_and_are_not_lines_to_be_answered() {
        let found = lines(b"\xef\xbb\xbf{}\n\n  \r\n[1]\nlast");
        let expected = [(1, &b"{}\n"[..]), (4, b"[1]\n"), (5, b"last")];
        assert_eq!(found, expected.map(|(number, bytes)| (number, Some(bytes.to_vec()))));
    }

    #[test]
    fn a_line_that_is_too_long_is_none_and_the_next_one_is_read() {
        let mut text = vec![b'x'; MAX_LINE + 1];
        text.extend(b"\nnext\n");
        assert_eq!(lines(&text), [(1, None), (2, Some(b"next\n".to_vec()))]);
    }

    #[test]
    fn lines_that_are_not_blank_are_counted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a\n\n \nb").unwrap();
        assert_eq!(Input::count(file.path()), Some(2));
        assert_eq!(Input::count(Path::new("/dev/null")), None);
    }
}
