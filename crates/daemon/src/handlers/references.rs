//! The jobs that a submission names: looked up, and written out in full.

use std::collections::HashSet;

use threadrunner_core::protocol::Submission;
use threadrunner_core::{ErrorCode, Failure, JobId, template};

use crate::context::Context;

/// Finds the jobs that a submission waits for: those in `after`, and those to whose answers its
/// texts refer. A reference by a part of an id becomes one by the whole id, so that what is on
/// disk names the same job for ever. `template` stays only where there is a reference.
pub(super) async fn resolve(
    context: &Context,
    submission: &mut Submission,
) -> Result<Vec<JobId>, Failure> {
    let refers = |text: &mut String| template::references(text).next().is_some();
    submission.template = submission.template && texts(submission).any(refers);
    // Nearly every prompt: it waits for no look at the disk.
    if submission.after.is_empty() && !submission.template {
        return Ok(Vec::new());
    }
    let names = std::mem::take(&mut submission.after);
    let mut texts = if submission.template { take_texts(submission) } else { Vec::new() };
    let (after, texts) = context
        .read(move |reader| {
            let mut after = Ordered::default();
            for name in &names {
                after.push(reader.resolve(name)?);
            }
            for text in &mut texts {
                *text = template::replace(text, |name| {
                    let id = reader.resolve(name).map_err(|error| unknown(name, error.into()))?;
                    let whole = template::reference(id.as_str());
                    after.push(id);
                    Ok::<_, Failure>(whole)
                })?;
            }
            Ok((after.jobs, texts))
        })
        .await?;
    put_texts(submission, texts);
    Ok(after)
}

/// Jobs in the order in which they were first named.
#[derive(Default)]
struct Ordered {
    jobs: Vec<JobId>,
    seen: HashSet<JobId>,
}

impl Ordered {
    fn push(&mut self, id: JobId) {
        if self.seen.insert(id.clone()) {
            self.jobs.push(id);
        }
    }
}

fn take_texts(submission: &mut Submission) -> Vec<String> {
    texts(submission).map(std::mem::take).collect()
}

fn put_texts(submission: &mut Submission, values: Vec<String>) {
    for (text, value) in texts(submission).zip(values) {
        *text = value;
    }
}

fn texts(submission: &mut Submission) -> impl Iterator<Item = &mut String> {
    let messages = submission.messages.iter_mut().map(|message| &mut message.content);
    std::iter::once(&mut submission.prompt).chain(submission.system.iter_mut()).chain(messages)
}

fn unknown(name: &str, failure: Failure) -> Failure {
    let reference = template::reference(name);
    let hint = match (failure.code, &failure.hint) {
        (ErrorCode::JobNotFound, _) | (_, None) => {
            "with --literal (\"template\": false) the prompt is sent as it is".to_owned()
        }
        (_, Some(hint)) => hint.clone(),
    };
    Failure::new(failure.code, format!("{reference}: {}", failure.message)).hint(hint)
}
