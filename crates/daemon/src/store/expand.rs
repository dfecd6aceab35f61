//! Replaces references in a prompt by the answers they refer to.
//!
//! This happens when a job begins, and only for the engine: `prompt.txt` and `job.json` keep what
//! was submitted. Answers are not expanded in turn.

use threadrunner_core::{ErrorCode, Failure, JobId, JobSpec, template};
use threadrunner_workspace::{Reader, WorkspaceError};

/// The maximum size of all answers in one prompt, in bytes: more than any model reads, and small
/// enough to fit in a frame however JSON escapes them.
const MAX_BYTES: usize = 8 << 20;

/// Replaces the references in a job's prompt, system message and messages.
pub(super) fn expand(
    prompt: &mut String,
    spec: &mut JobSpec,
    reader: &Reader,
) -> Result<(), Failure> {
    if !spec.template {
        return Ok(());
    }
    let (mut left, mut count) = (MAX_BYTES, 0);
    let mut answer = |name: &str| {
        count += 1;
        if count > template::MOST {
            return Err(template::too_many());
        }
        let text = read(name, reader)?;
        left = left.checked_sub(text.len()).ok_or_else(|| {
            Failure::new(
                ErrorCode::InvalidRequest,
                format!(
                    "the answers that the prompt refers to exceed {MAX_BYTES} bytes together: job \
                     {name}'s has {}",
                    text.len()
                ),
            )
            .hint("shorten them with a job in between")
        })?;
        Ok::<_, Failure>(text)
    };
    let (read, rest) = template::read_part(prompt, spec.template_bytes)?;
    *prompt = template::replace(read, &mut answer)? + rest;
    let messages = spec.messages.iter_mut().flat_map(|message| message.content.texts_mut());
    for text in spec.system.iter_mut().chain(messages) {
        *text = template::replace(text, &mut answer)?;
    }
    Ok(())
}

fn read(name: &str, reader: &Reader) -> Result<String, Failure> {
    let no_answer = |why: String| {
        Failure::new(
            ErrorCode::DependencyFailed,
            format!("the prompt refers to job {name}, which has no answer: {why}"),
        )
    };
    // Submitting resolves references to full ids; other programs may write anything.
    let id = JobId::parse(name).map_err(|_| no_answer("that is not a full id".to_owned()))?;
    let bytes = reader.result(&id).map_err(|error| match error {
        WorkspaceError::NotFound { .. } => no_answer("there is no such job".to_owned()),
        WorkspaceError::WrongState { state, .. } if state.is_final() => {
            no_answer("it failed or was canceled".to_owned())
                .hint(format!("`threadrunner result {id}` says why"))
        }
        WorkspaceError::WrongState { state, .. } => no_answer(format!("it is {state}"))
            .hint("jobs that a prompt refers to go into \"after\" in job.json"),
        WorkspaceError::NoText { why: Some(why), .. } => no_answer(why),
        error => error.into(),
    })?;
    String::from_utf8(bytes).map_err(|_| no_answer("it is not UTF-8".to_owned()))
}
