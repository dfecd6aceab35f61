//! Resolves the jobs that a submission names to full ids.

use std::collections::{HashMap, HashSet};

use threadrunner_core::protocol::Submission;
use threadrunner_core::{ErrorCode, Failure, JobId, JobSelector, template};
use threadrunner_workspace::Reader;
use tokio_util::sync::CancellationToken;

use crate::room::SMALL;
use crate::workspaces::Served;

/// Finds the jobs that a submission waits for: those in `after`, and those whose answers its texts
/// refer to. All must be in the submission's own workspace.
///
/// References are rewritten to full ids, so that what is on disk always names the same jobs.
/// `template` stays set only if there is a reference.
///
/// Stops looking when the client is `gone`.
pub(super) async fn resolve(
    workspace: &Served,
    submission: &mut Submission,
    gone: CancellationToken,
) -> Result<Vec<JobId>, Failure> {
    let read = submission.template.then(|| Texts::take(submission)).transpose()?;
    let read = match read {
        // Nearly every prompt: without references there is no need to read the disk.
        Some(texts) if texts.bytes() <= SMALL && texts.count() == 0 => {
            texts.put_back(submission);
            None
        }
        read => read,
    };
    submission.template = false;
    if submission.after.is_empty() && read.is_none() {
        submission.template_bytes = None;
        return Ok(Vec::new());
    }
    let names = std::mem::take(&mut submission.after);
    let look = move |reader: &Reader| {
        let mut named = Named {
            reader,
            gone: &gone,
            listed: None,
            ids: HashMap::new(),
            jobs: Vec::new(),
            seen: HashSet::new(),
        };
        for name in &names {
            named.id(name)?;
        }
        let read = read.map(|texts| texts.by_whole_ids(&mut named)).transpose()?;
        Ok((named.jobs, read))
    };
    let (after, texts) = workspace.read(look).await?;
    if let Some((texts, refers)) = texts {
        submission.template = refers;
        texts.put_back(submission);
    }
    if !submission.template {
        submission.template_bytes = None;
    }
    Ok(after)
}

/// The texts of a submission in which references count.
struct Texts {
    texts: Vec<String>,
    /// The end of the prompt, in which they do not.
    rest: String,
    is_cut: bool,
}

impl Texts {
    fn take(submission: &mut Submission) -> Result<Self, Failure> {
        let cut = submission.template_bytes;
        let read = template::read_part(&submission.prompt, cut)?.0.len();
        let rest = submission.prompt.split_off(read);
        let texts = texts(submission).map(std::mem::take).collect();
        Ok(Self { texts, rest, is_cut: cut.is_some() })
    }

    fn put_back(self, submission: &mut Submission) {
        for (text, value) in texts(submission).zip(self.texts) {
            *text = value;
        }
        submission.template_bytes = self.is_cut.then_some(submission.prompt.len() as u64);
        submission.prompt.push_str(&self.rest);
    }

    fn bytes(&self) -> usize {
        self.texts.iter().map(String::len).sum()
    }

    /// The number of references, counted up to just beyond the maximum.
    fn count(&self) -> usize {
        let references = self.texts.iter().flat_map(|text| template::references(text));
        references.take(template::MOST + 1).count()
    }

    /// Rewrites the references to full ids. Also returns whether there is any.
    fn by_whole_ids(mut self, named: &mut Named<'_>) -> Result<(Self, bool), Failure> {
        let count = self.count();
        if count > template::MOST {
            return Err(template::too_many());
        }
        for text in self.texts.iter_mut().filter(|_| count > 0) {
            *text = template::replace(text, |name| {
                let id = named.id(&name.into()).map_err(|error| unknown(name, error))?;
                Ok::<_, Failure>(template::reference(id.as_str()))
            })?;
        }
        Ok((self, count > 0))
    }
}

/// The named jobs, each looked up once, in the order of their first mention.
struct Named<'a> {
    reader: &'a Reader,
    gone: &'a CancellationToken,
    /// All jobs, once a part of an id was looked up.
    listed: Option<Vec<JobId>>,
    ids: HashMap<JobSelector, JobId>,
    jobs: Vec<JobId>,
    seen: HashSet<JobId>,
}

impl Named<'_> {
    fn id(&mut self, name: &JobSelector) -> Result<JobId, Failure> {
        if let Some(id) = self.ids.get(name) {
            return Ok(id.clone());
        }
        if self.gone.is_cancelled() {
            return Err(Failure::new(ErrorCode::ConnectionLost, "the client is gone"));
        }
        let id = self.reader.resolve_among(name, &mut self.listed)?;
        self.ids.insert(name.clone(), id.clone());
        if self.seen.insert(id.clone()) {
            self.jobs.push(id.clone());
        }
        Ok(id)
    }
}

fn texts(submission: &mut Submission) -> impl Iterator<Item = &mut String> {
    let messages = submission.messages.iter_mut().flat_map(|message| message.content.texts_mut());
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
