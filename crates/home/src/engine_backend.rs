//! The default backend: llama, unless the engine was built without it.
//!
//! Only the engine's program links llama.cpp, so it is asked, in the protocol that it speaks with
//! the daemon. That starts a process. Its answer is kept in the home's cache until the program is
//! another one, and the usual way costs two `stat`s and a short read.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::BytesMut;
use threadrunner_core::engine_protocol::{self, EngineOptions, Event, Load};
use threadrunner_core::open_enum::parse;
use threadrunner_core::{BackendKind, ErrorCode, ModelRef, decode_frame, encode_frame};

use crate::file::put;
use crate::{Home, Links, find_engine, read_regular};

/// How long the engine may be silent. It answers within some 10 ms.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes. It is a code and two sentences.
const MOST_BYTES: usize = 64 << 10;

impl Home {
    /// The backend of the engine that this process's environment names: llama, unless that engine
    /// says that it was built without.
    ///
    /// If there is no engine, or it does not answer, this is llama too: loading a model then
    /// reports what is wrong, where the dummy would answer as if nothing was.
    ///
    /// The first call may start a process and wait for it; later ones return the same.
    pub fn engine_backend(&self) -> BackendKind {
        *self.engine_backend.get_or_init(|| match find_engine() {
            Ok(engine) => backend_of(&engine, &self.cache_dir.join("engine-backend")),
            Err(_) => BackendKind::Llama,
        })
    }
}

/// The backend of this engine: what is noted in the file `note`, else what the engine says.
fn backend_of(engine: &Path, note: &Path) -> BackendKind {
    let Ok(found) = fs::metadata(engine) else { return BackendKind::Llama };
    let identity = identity(engine, &found);
    if let Some(backend) = noted(note, &identity) {
        return backend;
    }
    let Ok(backend) = ask(engine) else { return BackendKind::Llama };
    if !is_script(engine) {
        // Without a note, it is asked again.
        let _ = put(note, |file| file.write_all(format!("{backend} {identity}").as_bytes()));
    }
    backend
}

/// What tells one build of a program from another.
fn identity(program: &Path, found: &Metadata) -> String {
    format!(
        "{}:{} {} {}.{:09} {}",
        found.dev(),
        found.ino(),
        found.len(),
        found.ctime(),
        found.ctime_nsec(),
        program.display()
    )
}

fn noted(note: &Path, identity: &str) -> Option<BackendKind> {
    let bytes = read_regular(note, MOST_BYTES as u64, Links::Refused).ok()?;
    let (backend, of) = std::str::from_utf8(&bytes).ok()?.split_once(' ')?;
    (of == identity).then(|| parse(backend))?
}

/// Whether the program is a script: what it starts may change, and it stays the same.
fn is_script(program: &Path) -> bool {
    let mut first = [0; 2];
    let read = File::open(program).and_then(|mut file| file.read_exact(&mut first));
    read.is_ok() && first == *b"#!"
}

/// Asks an engine for the size of a llama model that has no file.
///
/// # Errors
/// It cannot be started, or does not answer as an engine does.
fn ask(engine: &Path) -> io::Result<BackendKind> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut child = Command::new(engine)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let answer = converse(&mut ours);
    // It may have ended already. It holds nothing that could be lost.
    let _ = child.kill();
    child.wait()?;
    answer
}

fn converse(engine: &mut UnixStream) -> io::Result<BackendKind> {
    engine.set_read_timeout(Some(LIMIT))?;
    let model = ModelRef { backend: BackendKind::Llama, path: None, draft: None };
    let size = engine_protocol::Command::Size(Load::new(model, EngineOptions::default()));
    let mut buffer = BytesMut::new();
    encode_frame(&size, &mut buffer).map_err(io::Error::other)?;
    engine.write_all(&buffer)?;
    // An engine that does not know `size` ends now.
    engine.shutdown(Shutdown::Write)?;
    buffer.clear();
    let mut chunk = [0; 4096];
    loop {
        match decode_frame::<Event>(&mut buffer).map_err(io::Error::other)? {
            Some(Event::LoadFailed { failure }) => {
                let without = failure.code == ErrorCode::BackendUnavailable;
                return Ok(if without { BackendKind::Dummy } else { BackendKind::Llama });
            }
            Some(Event::Sized { .. }) => return Ok(BackendKind::Llama),
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
            None => {}
        }
        match engine.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read if buffer.len() + read > MOST_BYTES => {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            read => buffer.extend_from_slice(&chunk[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use threadrunner_core::Failure;

    /// A script that answers as an engine with or without llama.cpp, and counts how often.
    fn script(dir: &Path, code: ErrorCode) -> std::path::PathBuf {
        let failure = Failure::new(code, "no");
        let mut answer = BytesMut::new();
        encode_frame(&Event::LoadFailed { failure }, &mut answer).unwrap();
        fs::write(dir.join("answer"), &answer).unwrap();
        write(dir, &format!("echo >>'{0}/asked'; cat '{0}/answer' >&0", dir.display()))
    }

    fn write(dir: &Path, body: &str) -> std::path::PathBuf {
        let path = dir.join("engine");
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn an_engine_without_llama_makes_the_dummy_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("note");
        let engine = script(dir.path(), ErrorCode::BackendUnavailable);
        assert_eq!(backend_of(&engine, &note), BackendKind::Dummy);
        let engine = script(dir.path(), ErrorCode::NoModel);
        assert_eq!(backend_of(&engine, &note), BackendKind::Llama);
        // What a script starts may change, so its answer is not noted.
        assert!(!note.exists());
        assert_eq!(fs::read(dir.path().join("asked")).unwrap().len(), 2);
    }

    #[test]
    fn an_engine_that_gives_no_answer_counts_as_llama() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("note");
        for body in ["exit 1", "kill -ILL $$", "cat >/dev/null", "echo nonsense >&0"] {
            assert_eq!(backend_of(&write(dir.path(), body), &note), BackendKind::Llama, "{body}");
        }
        assert_eq!(backend_of(&dir.path().join("none"), &note), BackendKind::Llama);
        assert!(!note.exists());
    }

    #[test]
    fn a_note_counts_for_the_program_that_it_is_about() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("note");
        let engine = script(dir.path(), ErrorCode::NoModel);
        let identity = identity(&engine, &fs::metadata(&engine).unwrap());
        fs::write(&note, format!("dummy {identity}")).unwrap();
        assert_eq!(backend_of(&engine, &note), BackendKind::Dummy);
        let other = engine.with_file_name("other");
        fs::copy(&engine, &other).unwrap();
        assert_eq!(backend_of(&other, &note), BackendKind::Llama);
        for broken in ["", "dummy", "gpu x", &format!("gpu {identity}")] {
            fs::write(&note, broken).unwrap();
            assert_eq!(backend_of(&engine, &note), BackendKind::Llama, "{broken}");
        }
    }
}
