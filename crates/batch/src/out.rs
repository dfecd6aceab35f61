//! The output file: exactly one line for each line of the input.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use threadrunner_core::MAX_FRAME_BYTES;

use crate::error::BatchError;
use crate::label::{key, key_of_number};
use crate::seen::Seen;

/// The longest line that is read, in bytes: an answer fits a frame, and is quoted here.
const MAX_LINE: u64 = 2 * MAX_FRAME_BYTES as u64;

/// What earlier runs wrote.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// Lines with an answer.
    pub done: u64,
    /// Lines with an error.
    pub failed: u64,
    /// Whether the file existed.
    pub existed: bool,
}

/// The output file, locked by this process.
#[derive(Debug)]
pub(crate) struct OutFile {
    path: PathBuf,
    file: File,
    /// The end of the last whole line.
    length: u64,
}

/// The keys that identify a line of the output; the rest is not read.
#[derive(Deserialize)]
struct OutLine {
    id: Option<Value>,
    custom_id: Option<Value>,
    /// The number of an input line without an id.
    line: Option<u64>,
    error: Option<OutError>,
}

#[derive(Deserialize)]
struct OutError {
    line: Option<u64>,
    duplicate_of: Option<u64>,
}

impl OutLine {
    fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|line: &Self| {
            let unread = line.line.is_some() && line.error.is_some();
            line.id.is_some() || line.custom_id.is_some() || unread
        })
    }

    fn note(&self, seen: &mut Seen) {
        if let Some(number) = self.line {
            seen.in_output(&key_of_number(number), None);
        } else if let Some(id) = self.custom_id.as_ref().or(self.id.as_ref()) {
            let error = self.error.as_ref();
            let repeated = error.filter(|e| e.duplicate_of.is_some()).and_then(|e| e.line);
            seen.in_output(&key(id), repeated);
        }
    }
}

impl OutFile {
    /// Opens or creates the file, reads what is in it, and drops a last line that was cut short;
    /// with `retry_failed`, also drops the lines with an error.
    pub(crate) fn open(
        path: &Path,
        input: &File,
        retry_failed: bool,
        seen: &mut Seen,
    ) -> Result<(Self, Before), BatchError> {
        let cannot = |verb, error| cannot(verb, path, error);
        let existed = path.exists();
        let file = lock(path)?;
        let metadata = file.metadata().map_err(|error| cannot("read", error))?;
        if !metadata.is_file() {
            return Err(BatchError::NotAFile(path.to_owned()));
        }
        let from = input.metadata().map_err(|error| cannot("read the input for", error))?;
        if (from.dev(), from.ino()) == (metadata.dev(), metadata.ino()) {
            return Err(BatchError::OutputIsInput(path.to_owned()));
        }
        let mut out = Self { path: path.to_owned(), file, length: 0 };
        let lines = out.scan(seen)?;
        let (done, failed) = (lines.done, lines.failed);
        out.file.set_len(out.length).map_err(|error| cannot("write", error))?;
        if lines.unended {
            out.append(b"\n")?;
        }
        if retry_failed && failed > 0 {
            out.drop_failed()?;
            *seen = Seen::default();
            out.length = 0;
            out.scan(seen)?;
            return Ok((out, Before { done, failed: 0, existed }));
        }
        Ok((out, Before { done, failed, existed }))
    }

    /// The path of the file from any directory.
    pub(crate) fn absolute(&self) -> PathBuf {
        self.path.canonicalize().unwrap_or_else(|_| self.path.clone())
    }

    /// Checks that the path still names this file and that no other program has changed it, because
    /// answers would go where nobody finds them.
    pub(crate) fn check(&self) -> Result<(), BatchError> {
        let ours = self.file.metadata().map_err(|error| cannot("inspect", &self.path, error))?;
        let how = match self.path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => "was removed",
            Err(error) => return Err(cannot("inspect", &self.path, error)),
            Ok(named) if (named.dev(), named.ino()) != (ours.dev(), ours.ino()) => "was replaced",
            Ok(_) if ours.len() < self.length => "was cut short",
            Ok(_) if ours.len() > self.length => "was written by another program",
            Ok(_) => return Ok(()),
        };
        Err(BatchError::Changed { path: self.path.clone(), how })
    }

    /// Appends all of `bytes` or nothing, unless the process is killed in between.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), BatchError> {
        self.check()?;
        match (&self.file).write_all(bytes) {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // If this fails too, part of a line stays, which the next run drops.
                let _ = self.file.set_len(self.length);
                Err(BatchError::Writing { path: self.path.clone(), error })
            }
        }
    }

    /// A second handle, to sync the file on another thread.
    pub(crate) fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Syncs the file, so that it survives a power failure.
    pub(crate) fn sync(&self) -> Result<(), BatchError> {
        self.file.sync_all().map_err(|error| cannot("sync", &self.path, error))
    }

    fn scan(&mut self, seen: &mut Seen) -> Result<Scanned, BatchError> {
        (&self.file).rewind().map_err(|error| cannot("read", &self.path, error))?;
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let mut scanned = Scanned::default();
        let mut bytes = Vec::new();
        for number in 1_u64.. {
            bytes.clear();
            let read = reader
                .by_ref()
                .take(MAX_LINE + 1)
                .read_until(b'\n', &mut bytes)
                .map_err(|error| cannot("read", &self.path, error))?;
            if read == 0 {
                break;
            }
            let whole = bytes.ends_with(b"\n");
            match OutLine::parse(&bytes) {
                Some(line) => {
                    line.note(seen);
                    match line.error {
                        Some(_) => scanned.failed += 1,
                        None => scanned.done += 1,
                    }
                    scanned.unended = !whole;
                }
                None if bytes.trim_ascii().is_empty() => {}
                None if read as u64 > MAX_LINE => {
                    return Err(BatchError::Foreign { path: self.path.clone(), line: number });
                }
                None if scanned.done + scanned.failed == 0 && !may_be_ours(&bytes) => {
                    return Err(BatchError::Foreign { path: self.path.clone(), line: number });
                }
                // Cut short by a kill; or, if it has zero bytes, damaged by a power failure, which
                // may leave unsynced data in any state.
                None if !whole || bytes.contains(&0) => break,
                None => {
                    return Err(BatchError::Foreign { path: self.path.clone(), line: number });
                }
            }
            self.length += read as u64;
        }
        Ok(scanned)
    }

    /// Atomically replaces the file with a copy that has no errors.
    fn drop_failed(&mut self) -> Result<(), BatchError> {
        let path = self.absolute();
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".tmp");
        let temporary = path.with_file_name(name);
        let written = self.copy_answered(&temporary).and_then(|file| {
            fs::rename(&temporary, &path)?;
            if let Some(parent) = path.parent() {
                File::open(parent)?.sync_all()?;
            }
            Ok(file)
        });
        self.file = written.map_err(|error| cannot("rewrite", &path, error))?;
        Ok(())
    }

    fn copy_answered(&self, to: &Path) -> io::Result<File> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(to)?;
        file.set_len(0)?;
        // Locked before the rename, so that no other batch can take it.
        file.try_lock().map_err(io::Error::from)?;
        file.set_permissions(self.file.metadata()?.permissions())?;
        let mut writer = BufWriter::with_capacity(1 << 20, &file);
        let mut reader = BufReader::with_capacity(1 << 20, File::open(&self.path)?);
        let mut bytes = Vec::new();
        while {
            bytes.clear();
            reader.by_ref().read_until(b'\n', &mut bytes)?
        } > 0
        {
            if OutLine::parse(&bytes).is_some_and(|line| line.error.is_none()) {
                writer.write_all(&bytes)?;
            }
        }
        writer.flush()?;
        drop(writer);
        file.sync_all()?;
        Ok(file)
    }
}

#[derive(Default)]
struct Scanned {
    done: u64,
    failed: u64,
    /// Whether the last line is complete but for its newline.
    unended: bool,
}

/// Opens and locks the file that `path` names. Starts over if it is replaced meanwhile.
fn lock(path: &Path) -> Result<File, BatchError> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(|error| cannot("open", path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(BatchError::InUse(path.to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(cannot("lock", path, error)),
        }
        let ours = file.metadata().map_err(|error| cannot("read", path, error))?;
        match path.metadata() {
            Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => return Ok(file),
            _ => {}
        }
    }
}

fn cannot(verb: &'static str, path: &Path, error: io::Error) -> BatchError {
    BatchError::Output { verb, path: path.to_owned(), error }
}

/// Whether a damaged first line may be one of ours: its beginning, and then nothing or zero bytes.
/// Anything else is a file of somebody else, which is not to be cut.
fn may_be_ours(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = bytes[..end].trim_ascii();
    let begins = |own: &[u8]| text.starts_with(own) || own.starts_with(text);
    begins(br#"{"id":"#) || begins(br#"{"custom_id":"#)
}

#[cfg(test)]
mod tests;
