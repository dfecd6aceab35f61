//! What holds for lines that do not say otherwise.

use std::collections::HashMap;

use threadrunner_core::protocol::Submission;
use threadrunner_core::{BackendKind, Failure, Parameters, Priority, Role};
use threadrunner_home::Home;

use super::line::{Form, Label, invalid};
use crate::app::{resolve, resolve_asked_draft};
use crate::args::BatchArgs;

/// The most tags of a line: those of a job without the batch's own.
const TAGS: usize = 16 - Defaults::OWN_TAGS;

type Chosen = (Option<BackendKind>, Option<String>);

/// The command line's part in every line.
#[derive(Debug)]
pub(super) struct Defaults {
    home: Home,
    args: BatchArgs,
    params: Parameters,
    /// The batch's name.
    batch: String,
    /// Looked up once, not for each of a million lines.
    models: HashMap<Chosen, Result<Chosen, Failure>>,
    drafts: HashMap<(Option<BackendKind>, String), Result<String, Failure>>,
}

/// Why a line cannot be completed.
#[derive(Debug)]
pub(super) struct Incomplete {
    pub(super) failure: Failure,
    /// Whether the batch's own model is what is missing.
    pub(super) general_model: bool,
}

impl Incomplete {
    /// What is wrong is the line's.
    pub(super) fn of_line(failure: Failure) -> Self {
        Self { failure, general_model: false }
    }
}

impl Defaults {
    /// The tags that every job of a batch has first, and no job of another line.
    pub(super) const OWN_TAGS: usize = 2;

    pub(super) fn new(home: Home, mut args: BatchArgs, batch: String) -> Result<Self, Failure> {
        args.workspace = args.workspace.or_else(|| home.asked_workspace());
        let params = args.sampling.clone().into_checked_parameters()?;
        Ok(Self { home, args, params, batch, models: HashMap::new(), drafts: HashMap::new() })
    }

    /// Completes what a line asks; also whether the model is the batch's, and not the line's.
    pub(super) fn complete(
        &mut self,
        label: &Label,
        mut submission: Submission,
    ) -> Result<(Submission, bool), Incomplete> {
        // A body of OpenAI's must name a model, which is hardly one that is here.
        if label.form != Form::Own && self.args.model.is_some() {
            submission.model = None;
        }
        let general = submission.model.is_none();
        // A draft model is one model's: the batch's goes with the batch's model.
        let named = submission.draft.take();
        let named = named.or_else(|| self.args.draft.clone().filter(|_| general));
        let backend = submission.backend.or(self.args.backend);
        let draft = match named {
            Some(name) => Some(self.resolve_draft(backend, name).map_err(Incomplete::of_line)?),
            None => None,
        };
        let model = submission.model.take().or_else(|| self.args.model.clone());
        let (backend, model) = self
            .resolve((backend, model))
            .map_err(|failure| Incomplete { failure, general_model: general })?;
        let has_system = submission.messages.iter().any(|message| message.role == Role::System);
        if submission.system.is_none() && !has_system && !submission.raw {
            submission.system.clone_from(&self.args.system);
        }
        if submission.tags.len() + self.args.tags.len() > TAGS {
            let message = format!("more than {TAGS} tags: a batch has two of its own");
            return Err(Incomplete::of_line(invalid(message)));
        }
        let mut tags = vec![self.batch.clone(), format!("line-{}", label.line)];
        tags.extend(self.args.tags.iter().cloned());
        tags.append(&mut submission.tags);
        let timeout = self.args.timeout.map(|timeout| timeout.as_secs_f64());
        let submission = Submission {
            // It is the batch that says which.
            job: None,
            backend,
            model,
            draft,
            stream: Some(false),
            detach: true,
            tags,
            params: submission.params.or(&self.params),
            priority: submission.priority.or(self.args.priority).or(Some(Priority::Batch)),
            timeout_s: submission.timeout_s.or(timeout),
            // The answers are looked for in one.
            workspace: self.args.workspace.clone(),
            ..submission
        };
        Ok((submission, general))
    }

    fn resolve(&mut self, chosen: Chosen) -> Result<Chosen, Failure> {
        let (home, workspace) = (&self.home, self.args.workspace.as_deref());
        let found = self.models.entry(chosen).or_insert_with_key(|(backend, model)| {
            resolve(home, workspace, *backend, model.as_deref())
                .map(|(backend, path)| (Some(backend), path))
        });
        found.clone()
    }

    fn resolve_draft(
        &mut self,
        backend: Option<BackendKind>,
        name: String,
    ) -> Result<String, Failure> {
        let found = self.drafts.entry((backend, name));
        let found = found
            .or_insert_with_key(|(backend, name)| resolve_asked_draft(&self.home, *backend, name));
        found.clone()
    }
}
