//! Completes what lines ask for with the options of the command line.

use std::collections::HashMap;

use threadrunner_core::protocol::Submission;
use threadrunner_core::{BackendKind, Failure, Parameters, Priority, Role};
use threadrunner_home::{AskedModel, Home, asked_draft};

use super::label::{Form, Label, invalid};
use crate::args::BatchArgs;

/// The maximum number of tags from a line and `--tag` together: a job takes 16, the batch's own
/// included.
const TAGS: usize = 16 - Defaults::OWN_TAGS;

type Chosen = (Option<BackendKind>, Option<String>);

/// The options of the command line, which apply to every line.
#[derive(Debug)]
pub(super) struct Defaults {
    home: Home,
    args: BatchArgs,
    params: Parameters,
    /// The batch's name, a tag of all its jobs.
    batch: String,
    /// Models that were looked up: once each, not for each of a million lines.
    models: HashMap<Chosen, Result<Chosen, Failure>>,
    drafts: HashMap<(Option<BackendKind>, String), Result<String, Failure>>,
}

/// Why a line cannot be completed.
#[derive(Debug)]
pub(super) struct Incomplete {
    pub(super) failure: Failure,
    /// Whether the model at fault is the batch's, which all such lines share.
    pub(super) general_model: bool,
}

impl Incomplete {
    /// An error of the line alone.
    pub(super) fn of_line(failure: Failure) -> Self {
        Self { failure, general_model: false }
    }
}

impl Defaults {
    /// How many tags of its own the batch puts first on a job. Together they identify the line.
    pub(super) const OWN_TAGS: usize = 2;

    pub(super) fn new(home: Home, mut args: BatchArgs, batch: String) -> Result<Self, Failure> {
        args.workspace = args.workspace.or_else(|| home.asked_workspace());
        let params = args.sampling.clone().into_checked_parameters()?;
        Ok(Self { home, args, params, batch, models: HashMap::new(), drafts: HashMap::new() })
    }

    /// Fills in what a line leaves out. Also returns whether the model is the batch's rather than
    /// the line's.
    pub(super) fn complete(
        &mut self,
        label: &Label,
        mut submission: Submission,
    ) -> Result<(Submission, bool), Incomplete> {
        // OpenAI's bodies must name a model, which is rarely one of ours.
        if label.form != Form::Own && self.args.model.is_some() {
            submission.model = None;
        }
        let general = submission.model.is_none();
        // A draft model fits one model: the batch's is only for the batch's model.
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
            let message = format!("a line takes up to {TAGS} tags: the batch adds two of its own");
            return Err(Incomplete::of_line(invalid(message)));
        }
        let mut tags = vec![self.batch.clone(), format!("line-{}", label.line)];
        tags.extend(self.args.tags.iter().cloned());
        tags.append(&mut submission.tags);
        let timeout = self.args.timeout.map(|timeout| timeout.as_secs_f64());
        let submission = Submission {
            // The batch chooses the id.
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
            // A batch follows all its jobs in one workspace.
            workspace: self.args.workspace.clone(),
            ..submission
        };
        Ok((submission, general))
    }

    fn resolve(&mut self, chosen: Chosen) -> Result<Chosen, Failure> {
        let (home, workspace) = (&self.home, self.args.workspace.as_deref());
        let found = self.models.entry(chosen).or_insert_with_key(|(backend, model)| {
            AskedModel::named(home, workspace, *backend, model.as_deref())
                .map(|asked| (Some(asked.backend), asked.path))
        });
        found.clone()
    }

    fn resolve_draft(
        &mut self,
        backend: Option<BackendKind>,
        name: String,
    ) -> Result<String, Failure> {
        let found = self.drafts.entry((backend, name));
        let found =
            found.or_insert_with_key(|(backend, name)| asked_draft(&self.home, *backend, name));
        found.clone()
    }
}
