//! Reads answers: of jobs that are done, and of those that are under way.

use std::io::{Read, Seek, SeekFrom};

use threadrunner_core::{JobId, JobState, Output, OutputKind, kinds_of};

use super::{Reader, json};
use crate::files::{JobDir, MAX_FILE_BYTES, ReadError};
use crate::job_files::{load_meta, text};
use crate::layout::{EMBEDDING_FILE, OUTPUT_FILE, PARTIAL_FILE, RESULT_FILE};
use crate::{Result, WorkspaceError};

/// Part of a job's answer, which may still grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialAnswer {
    /// The job's state when this was read.
    pub state: JobState,
    /// The bytes from the requested offset on. They may end in the middle of a character.
    pub bytes: Vec<u8>,
}

impl Reader {
    /// The text of a done job's answer.
    ///
    /// # Errors
    /// [`WorkspaceError::WrongState`] when it is not done; [`WorkspaceError::NoText`] when its
    /// answer is not text, or cannot be read; [`WorkspaceError::NotFound`]; [`WorkspaceError::Io`].
    pub fn result(&self, id: &JobId) -> Result<Vec<u8>> {
        let (text, output) = self.answer(id)?;
        let is_text = |output: &Output| output.kind() == OutputKind::Reasoning;
        if text.is_empty() && !output.iter().all(is_text) {
            let (state, fd) = self.find(id)?;
            let why = format!("its answer is not text ({})", kinds_of(&output));
            return Err(no_text(id, self.job_dir(&fd, state, id), Some(why)));
        }
        Ok(text)
    }

    /// A done job's answer: its text, and what it holds beside it. Of a vector that another program
    /// left, the text is its JSON.
    ///
    /// # Errors
    /// [`WorkspaceError::WrongState`] when it is not done; [`WorkspaceError::NoText`] when it has
    /// no readable answer; [`WorkspaceError::NotFound`]; [`WorkspaceError::Io`].
    pub fn answer(&self, id: &JobId) -> Result<(Vec<u8>, Vec<Output>)> {
        let (state, fd) = self.find(id)?;
        if state != JobState::Done {
            return Err(WorkspaceError::WrongState { id: id.clone(), state, wanted: "read" });
        }
        let dir = self.job_dir(&fd, state, id);
        for name in ANSWERS {
            match dir.read(name) {
                Ok(Some(mut answer)) => {
                    answer.drain(..answer.len() - text(&answer).len());
                    if name == EMBEDDING_FILE && answer.trim_ascii().is_empty() {
                        return Err(no_text(id, dir, Some(format!("{name} is empty"))));
                    }
                    return Ok((answer, json(&dir, OUTPUT_FILE)?.unwrap_or_default()));
                }
                Ok(None) => {}
                Err(ReadError::Unfit(why)) => return Err(no_text(id, dir, Some(why))),
                Err(ReadError::Io(error)) => return Err(dir.io("read", name, error)),
            }
        }
        Err(no_text(id, dir, None))
    }

    /// A job's answer so far, from a byte offset. A job that is done has all of it; a queued one,
    /// what its last attempt wrote before it was cut short.
    ///
    /// # Errors
    /// [`WorkspaceError::NoText`] when it is done without a readable answer;
    /// [`WorkspaceError::NotFound`]; [`WorkspaceError::Io`].
    pub fn partial(&self, id: &JobId, offset: u64) -> Result<PartialAnswer> {
        let (state, fd) = self.find(id)?;
        let dir = self.job_dir(&fd, state, id);
        let names: &[&str] = match state {
            JobState::Done => &ANSWERS,
            // At the end the partial answer is renamed to the answer, shortly before the job moves.
            JobState::Processing => &[PARTIAL_FILE, RESULT_FILE],
            JobState::Failed => &[PARTIAL_FILE],
            // From an earlier attempt that was cut short. After a `retry` it is not shown.
            JobState::Ready if !ended_before(&dir)? => &[PARTIAL_FILE],
            JobState::Writing | JobState::Ready => &[],
        };
        for name in names {
            match dir.open(name) {
                Ok(Some((_, size))) if state == JobState::Done && size > MAX_FILE_BYTES => {
                    let why = format!("{name} is over the limit of {MAX_FILE_BYTES} bytes");
                    return Err(no_text(id, dir, Some(why)));
                }
                Ok(Some((mut file, _))) => {
                    let mut bytes = Vec::new();
                    file.seek(SeekFrom::Start(offset))
                        .and_then(|_| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes))
                        .map_err(|error| dir.io("read", name, error))?;
                    if offset == 0 && state == JobState::Done {
                        bytes.drain(..bytes.len() - text(&bytes).len());
                    }
                    return Ok(PartialAnswer { state, bytes });
                }
                Ok(None) => {}
                Err(ReadError::Unfit(why)) if state == JobState::Done => {
                    return Err(no_text(id, dir, Some(why)));
                }
                // Put there by the submitter. An attempt replaces it when it has text to write.
                Err(ReadError::Unfit(_)) => {}
                Err(ReadError::Io(error)) => return Err(dir.io("read", name, error)),
            }
        }
        match state {
            JobState::Done => Err(no_text(id, dir, None)),
            _ => Ok(PartialAnswer { state, bytes: Vec::new() }),
        }
    }

    /// What the answer of a done job holds beside its text.
    ///
    /// # Errors
    /// [`WorkspaceError::NotFound`]; [`WorkspaceError::Io`].
    pub fn output(&self, id: &JobId) -> Result<Vec<Output>> {
        let (state, fd) = self.find(id)?;
        Ok(json(&self.job_dir(&fd, state, id), OUTPUT_FILE)?.unwrap_or_default())
    }

    /// The most bytes that [`Reader::answer`] and [`Reader::partial`] read of a job.
    ///
    /// # Errors
    /// [`WorkspaceError::NotFound`].
    pub fn answer_bytes(&self, id: &JobId) -> Result<u64> {
        let (state, fd) = self.find(id)?;
        let dir = self.job_dir(&fd, state, id);
        // A file that cannot be opened is not read either.
        let bytes = |name| dir.open(name).ok().flatten().map(|(_, bytes)| bytes);
        let text = [RESULT_FILE, PARTIAL_FILE].into_iter().filter_map(bytes).max();
        let output = bytes(OUTPUT_FILE).unwrap_or_default();
        Ok((text.unwrap_or_default() + output).min(MAX_FILE_BYTES))
    }
}

/// Whether a queued job had ended before it was queued again.
fn ended_before(dir: &JobDir<'_>) -> Result<bool> {
    Ok(load_meta(dir)?.status.is_some())
}

/// The files that can hold a finished job's answer. Another program's may be an embedding.
const ANSWERS: [&str; 2] = [RESULT_FILE, EMBEDDING_FILE];

fn no_text(id: &JobId, dir: JobDir<'_>, why: Option<String>) -> WorkspaceError {
    WorkspaceError::NoText { id: id.clone(), path: dir.path, why }
}
