//! The output file: exactly one line for each line of the input.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use threadrunner_core::{ErrorCode, Failure};
use threadrunner_home::unusable as cannot;

use super::label::{key, key_of_number};
use super::seen::Seen;

/// What earlier runs wrote.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Before {
    /// Lines with an answer.
    pub(super) done: u64,
    /// Lines with an error.
    pub(super) failed: u64,
    /// Whether the file existed.
    pub(super) existed: bool,
}

/// The output file, locked by this process.
#[derive(Debug)]
pub(super) struct OutFile {
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
    pub(super) fn open(
        path: &Path,
        input: &File,
        retry_failed: bool,
        seen: &mut Seen,
    ) -> Result<(Self, Before), Failure> {
        let cannot = |verb: &str, error: &io::Error| cannot(verb, path, error);
        let existed = path.exists();
        let file = lock(path)?;
        let metadata = file.metadata().map_err(|error| cannot("read", &error))?;
        if !metadata.is_file() {
            return Err(Failure::new(
                ErrorCode::InvalidRequest,
                format!("{} is not a file", path.display()),
            )
            .hint("`-o -` writes to standard output"));
        }
        let from = input.metadata().map_err(|error| cannot("read the input for", &error))?;
        if (from.dev(), from.ino()) == (metadata.dev(), metadata.ino()) {
            return Err(Failure::new(
                ErrorCode::InvalidRequest,
                format!("{} is both the input and the output", path.display()),
            )
            .hint("write the answers to another file"));
        }
        let mut out = Self { path: path.to_owned(), file, length: 0 };
        let lines = out.scan(seen)?;
        let (done, failed) = (lines.done, lines.failed);
        out.file.set_len(out.length).map_err(|error| cannot("write", &error))?;
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
    pub(super) fn absolute(&self) -> PathBuf {
        self.path.canonicalize().unwrap_or_else(|_| self.path.clone())
    }

    /// The path as given.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that the path still names this file and that no other program has changed it, because
    /// answers would go where nobody finds them.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let ours = self.file.metadata().map_err(|error| cannot("inspect", &self.path, &error))?;
        let what = match self.path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => "was removed",
            Err(error) => return Err(cannot("inspect", &self.path, &error)),
            Ok(named) if (named.dev(), named.ino()) != (ours.dev(), ours.ino()) => "was replaced",
            Ok(_) if ours.len() < self.length => "was cut short",
            Ok(_) if ours.len() > self.length => "was written by another program",
            Ok(_) => return Ok(()),
        };
        let message = format!("{} {what} while the batch was writing to it", self.path.display());
        Err(Failure::new(ErrorCode::Io, message)
            .hint("answers may be missing; run the same command again to add them"))
    }

    /// Appends all of `bytes` or nothing, unless the process is killed in between.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.check()?;
        match (&self.file).write_all(bytes) {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // If this fails too, part of a line stays, which the next run drops.
                let _ = self.file.set_len(self.length);
                Err(cannot("write", &self.path, &error)
                    .hint("free some space and run the same command again to resume"))
            }
        }
    }

    /// A second handle, to sync the file on another thread.
    pub(super) fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Syncs the file, so that it survives a power failure.
    pub(super) fn sync(&self) -> Result<(), Failure> {
        self.file.sync_all().map_err(|error| cannot("sync", &self.path, &error))
    }

    fn scan(&mut self, seen: &mut Seen) -> Result<Scanned, Failure> {
        (&self.file).rewind().map_err(|error| cannot("read", &self.path, &error))?;
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let mut scanned = Scanned::default();
        let mut bytes = Vec::new();
        for number in 1_u64.. {
            bytes.clear();
            let read = reader
                .read_until(b'\n', &mut bytes)
                .map_err(|error| cannot("read", &self.path, &error))?;
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
                // Cut short by a kill; or, if it has zero bytes, damaged by a power failure, which
                // may leave unsynced data in any state.
                None if !whole || bytes.contains(&0) => break,
                None => {
                    return Err(Failure::new(
                        ErrorCode::InvalidRequest,
                        format!("{}: line {number} is not from a batch", self.path.display()),
                    )
                    .hint("a batch would append its answers; name another file with `-o`"));
                }
            }
            self.length += read as u64;
        }
        Ok(scanned)
    }

    /// Atomically replaces the file with a copy that has no errors.
    fn drop_failed(&mut self) -> Result<(), Failure> {
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
        self.file = written.map_err(|error| cannot("rewrite", &path, &error))?;
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
fn lock(path: &Path) -> Result<File, Failure> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(|error| cannot("open", path, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(
                    ErrorCode::InvalidRequest,
                    format!("another batch is writing to {}", path.display()),
                )
                .hint("wait for it, or write to another file"));
            }
            Err(TryLockError::Error(error)) => return Err(cannot("lock", path, &error)),
        }
        let ours = file.metadata().map_err(|error| cannot("read", path, &error))?;
        match path.metadata() {
            Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => return Ok(file),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::batch::seen::Met;

    struct Story {
        directory: tempfile::TempDir,
        seen: Seen,
    }

    impl Story {
        fn new(text: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("in"), "").unwrap();
            fs::write(directory.path().join("out"), text).unwrap();
            Self { directory, seen: Seen::default() }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("out")
        }

        fn open(&mut self, retry_failed: bool) -> Result<(OutFile, Before), Failure> {
            let input = File::open(self.directory.path().join("in")).unwrap();
            OutFile::open(&self.path(), &input, retry_failed, &mut self.seen)
        }

        fn text(&self) -> String {
            fs::read_to_string(self.path()).unwrap()
        }
    }

    const TEXT: &str = "{\"id\":\"a\",\"text\":\"x\"}\n\
        {\"id\":\"batch_req_1\",\"custom_id\":\"b\",\"response\":{},\"error\":null}\n\
        {\"id\":\"c\",\"error\":{\"line\":3,\"code\":\"timeout\"}}\n\
        {\"id\":\"a\",\"error\":{\"line\":4,\"duplicate_of\":1}}\n\
        {\"id\":null,\"line\":7,\"error\":{\"line\":7}}\n\
        {\"id\":8,\"line\":8,\"text\":\"y\"}\n";

    #[test]
    fn what_is_there_is_known_by_its_ids() {
        let mut story = Story::new(TEXT);
        let (_, before) = story.open(false).unwrap();
        assert_eq!(before, Before { done: 3, failed: 3, existed: true });
        for (key, line, met) in [
            ("a", 1, Met::Answered),
            ("b", 2, Met::Answered),
            ("c", 3, Met::Answered),
            ("a", 4, Met::Answered),
            ("a", 5, Met::Repeats { first: 1 }),
            ("d", 6, Met::New),
            (&key_of_number(7), 7, Met::Answered),
            (&key_of_number(8), 8, Met::Answered),
            ("7", 9, Met::New),
            ("8", 10, Met::New),
        ] {
            assert_eq!(story.seen.meet(key, line), met, "{key} {line}");
        }
        assert_eq!(story.text(), TEXT);
    }

    #[test]
    fn a_line_that_was_cut_short_anywhere_is_dropped() {
        let last = "{\"id\":\"d\",\"text\":\"y\"}";
        for cut in 1..last.len() {
            let mut story = Story::new(&format!("{TEXT}{}", &last[..cut]));
            story.open(false).unwrap();
            assert_eq!(story.text(), TEXT);
            assert_eq!(story.seen.meet("d", 9), Met::New);
        }
        let mut story = Story::new(&format!("{TEXT}{last}"));
        let (mut out, _) = story.open(false).unwrap();
        out.append(b"{\"id\":1}\n").unwrap();
        assert_eq!(story.text(), format!("{TEXT}{last}\n{{\"id\":1}}\n"));
        assert_eq!(story.seen.meet("d", 9), Met::Answered);
    }

    #[test]
    fn what_a_power_failure_left_is_dropped() {
        let mut story = Story::new(&format!("{TEXT}\0\0\0\n{{\"id\":\"d\"}}\n"));
        story.open(false).unwrap();
        assert_eq!(story.text(), TEXT);
        assert_eq!(story.seen.meet("d", 9), Met::New);
    }

    #[test]
    fn errors_are_dropped_to_be_tried_again() {
        let mut story = Story::new(TEXT);
        let (mut out, before) = story.open(true).unwrap();
        assert_eq!(before, Before { done: 3, failed: 0, existed: true });
        assert_eq!(story.seen.meet("c", 3), Met::New);
        assert_eq!(story.seen.meet("a", 1), Met::Answered);
        out.append(b"{\"id\":\"c\"}\n").unwrap();
        let kept = TEXT.lines().filter(|line| !line.contains("\"error\":{"));
        let kept: Vec<_> = kept.collect();
        assert_eq!(story.text(), format!("{}\n{{\"id\":\"c\"}}\n", kept.join("\n")));
        assert_eq!(fs::read_dir(story.directory.path()).unwrap().count(), 2);
        // The new file is locked as the old one was.
        assert!(story.open(false).unwrap_err().message.contains("another batch"));
    }

    #[test]
    fn other_peoples_files_are_left_alone() {
        for text in ["dear diary\n", "{\"a\":1}\n", "[1]\n{\"id\":1}\n"] {
            let mut story = Story::new(text);
            let failure = story.open(false).unwrap_err();
            assert!(failure.message.contains("line 1 is not from a batch"), "{failure}");
            assert_eq!(story.text(), text);
        }
    }

    #[test]
    fn a_file_that_somebody_else_changes_is_written_no_more() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 4] = [
            ("removed", |path| fs::remove_file(path).unwrap()),
            ("replaced", |path| {
                fs::write(path.with_extension("new"), TEXT).unwrap();
                fs::rename(path.with_extension("new"), path).unwrap();
            }),
            ("cut short", |path| fs::write(path, "").unwrap()),
            ("another program", |path| fs::write(path, TEXT.repeat(2)).unwrap()),
        ];
        for (what, change) in changes {
            let mut story = Story::new(TEXT);
            let (mut out, _) = story.open(false).unwrap();
            out.append(b"{\"id\":1}\n").unwrap();
            out.check().unwrap();
            change(&story.path());
            let before = fs::read(story.path()).ok();
            let failure = out.append(b"{\"id\":2}\n").unwrap_err();
            assert!(failure.message.contains(what), "{failure}");
            assert_eq!(failure.code, ErrorCode::Io);
            assert!(out.check().is_err());
            assert_eq!(fs::read(story.path()).ok(), before);
        }
    }

    #[test]
    fn the_input_and_a_file_in_use_are_refused() {
        let mut story = Story::new("");
        let input = File::open(story.path()).unwrap();
        let same = OutFile::open(&story.path(), &input, false, &mut story.seen).unwrap_err();
        assert!(same.message.contains("the input and the output"), "{same}");
        let (_out, _) = story.open(false).unwrap();
        assert!(story.open(false).unwrap_err().message.contains("another batch"));
    }
}
