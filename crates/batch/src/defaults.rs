//! Completes what lines ask for with what was given for all of them.

use std::collections::HashMap;

use threadrunner_core::protocol::Submission;
use threadrunner_core::{BackendKind, Failure, Priority, Role};
use threadrunner_home::{AskedModel, Home, asked_draft};

use crate::label::{Form, Label, invalid};

/// The maximum number of tags from a line and the defaults together: a job takes 16, the batch's
/// own included.
const TAGS: usize = 16 - Defaults::OWN_TAGS;

type Chosen = (Option<BackendKind>, Option<String>);

/// What applies to every line that does not say otherwise.
#[derive(Debug)]
pub(crate) struct Defaults {
    home: Home,
    given: Submission,
    /// The batch's name, a tag of all its jobs.
    batch: String,
    /// Models that were looked up: once each, not for each of a million lines.
    models: HashMap<Chosen, Result<Chosen, Failure>>,
    drafts: HashMap<(Option<BackendKind>, String), Result<String, Failure>>,
}

/// Why a line cannot be completed.
#[derive(Debug)]
pub(crate) struct Incomplete {
    pub(crate) failure: Failure,
    /// Whether the model at fault is the batch's, which all such lines share.
    pub(crate) general_model: bool,
}

impl Incomplete {
    /// An error of the line alone.
    pub(crate) fn of_line(failure: Failure) -> Self {
        Self { failure, general_model: false }
    }
}

impl Defaults {
    /// How many tags of its own the batch puts first on a job. Together they identify the line.
    pub(crate) const OWN_TAGS: usize = 2;

    pub(crate) fn new(home: Home, mut given: Submission, batch: String) -> Self {
        given.workspace = given.workspace.or_else(|| home.asked_workspace());
        Self { home, given, batch, models: HashMap::new(), drafts: HashMap::new() }
    }

    /// Fills in what a line leaves out. Also returns whether the model is the batch's rather than
    /// the line's.
    pub(crate) fn complete(
        &mut self,
        label: &Label,
        mut submission: Submission,
    ) -> Result<(Submission, bool), Incomplete> {
        // OpenAI's bodies must name a model, which is rarely one of ours.
        if label.form != Form::Own && self.given.model.is_some() {
            submission.model = None;
        }
        let general = submission.model.is_none();
        // A draft model fits one model: the batch's is only for the batch's model.
        let named = submission.draft.take();
        let named = named.or_else(|| self.given.draft.clone().filter(|_| general));
        let backend = submission.backend.or(self.given.backend);
        let draft = match named {
            Some(name) => Some(self.resolve_draft(backend, name).map_err(Incomplete::of_line)?),
            None => None,
        };
        let model = submission.model.take().or_else(|| self.given.model.clone());
        let (backend, model) = self
            .resolve((backend, model))
            .map_err(|failure| Incomplete { failure, general_model: general })?;
        let has_system = submission.messages.iter().any(|message| message.role == Role::System);
        if submission.system.is_none() && !has_system && !submission.raw {
            submission.system.clone_from(&self.given.system);
        }
        if submission.tags.len() + self.given.tags.len() > TAGS {
            let message = format!("a line takes up to {TAGS} tags: the batch adds two of its own");
            return Err(Incomplete::of_line(invalid(message)));
        }
        let mut tags = vec![self.batch.clone(), format!("line-{}", label.line)];
        tags.extend(self.given.tags.iter().cloned());
        tags.append(&mut submission.tags);
        let submission = Submission {
            // The batch chooses the id.
            job: None,
            backend,
            model,
            draft,
            stream: Some(false),
            detach: true,
            tags,
            params: submission.params.or(&self.given.params),
            priority: submission.priority.or(self.given.priority).or(Some(Priority::Batch)),
            timeout_s: submission.timeout_s.or(self.given.timeout_s),
            // A batch follows all its jobs in one workspace.
            workspace: self.given.workspace.clone(),
            ..submission
        };
        Ok((submission, general))
    }

    fn resolve(&mut self, chosen: Chosen) -> Result<Chosen, Failure> {
        let (home, workspace) = (&self.home, self.given.workspace.as_ref());
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

#[cfg(test)]
mod tests {
    use threadrunner_core::{ErrorCode, Parameters};

    use super::*;
    use crate::openai::request::Endpoint;

    /// Defaults of a home with these models.
    fn defaults(dir: &tempfile::TempDir, models: &[&str], given: Submission) -> Defaults {
        let root = dir.path().canonicalize().unwrap();
        let home = Home::resolve(&root, |name| {
            (name == "THREADRUNNER_HOME").then(|| root.as_os_str().to_owned())
        })
        .unwrap();
        home.create().unwrap();
        for model in models {
            std::fs::write(home.models_dir.join(format!("{model}.gguf")), "GGUF").unwrap();
        }
        let given = Submission { backend: Some(BackendKind::Llama), ..given };
        Defaults::new(home, given, "batch-1".to_owned())
    }

    fn named(form: Form) -> Label {
        Label::unnamed(form, "a", 7).named("a".into())
    }

    #[test]
    fn a_line_goes_before_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let given = Submission {
            system: Some("Be brief.".into()),
            params: Parameters { top_k: Some(5), temperature: Some(0.5), ..Parameters::default() },
            tags: vec!["nightly".into()],
            timeout_s: Some(9.0),
            ..Submission::default()
        };
        let mut defaults = defaults(&dir, &["a"], given);
        let asked = Submission {
            prompt: "x".into(),
            params: Parameters { top_k: Some(1), ..Parameters::default() },
            tags: vec!["own".into()],
            priority: Some(Priority::Normal),
            ..Submission::default()
        };
        let (submission, general) = defaults.complete(&named(Form::Own), asked).unwrap();
        assert!(general && submission.detach);
        assert_eq!(submission.tags, ["batch-1", "line-7", "nightly", "own"]);
        assert_eq!(submission.system.as_deref(), Some("Be brief."));
        let params = (submission.params.top_k, submission.params.temperature);
        assert_eq!(params, (Some(1), Some(0.5)));
        assert_eq!(
            (submission.priority, submission.timeout_s),
            (Some(Priority::Normal), Some(9.0))
        );
        let raw = Submission { prompt: "x".into(), raw: true, ..Submission::default() };
        let (submission, _) = defaults.complete(&named(Form::Own), raw).unwrap();
        assert_eq!((submission.system, submission.priority), (None, Some(Priority::Batch)));
        let many = Submission { tags: vec!["t".into(); TAGS], ..Submission::default() };
        let incomplete = defaults.complete(&named(Form::Own), many).unwrap_err();
        assert_eq!(incomplete.failure.code, ErrorCode::InvalidRequest);
    }

    #[test]
    fn the_batchs_model_is_for_lines_without_one_and_for_all_of_openais() {
        let dir = tempfile::tempdir().unwrap();
        let given = Submission {
            model: Some("a".into()),
            draft: Some("small".into()),
            ..Submission::default()
        };
        let mut defaults = defaults(&dir, &["a", "b", "small"], given);
        let asked = || Submission { model: Some("b".into()), ..Submission::default() };
        let file = |name: &Option<String>| {
            name.as_deref().and_then(|path| path.rsplit('/').next()).map(str::to_owned)
        };
        let mut models = |form, asked| {
            let (submission, general) = defaults.complete(&named(form), asked).unwrap();
            (file(&submission.model).unwrap(), file(&submission.draft), general)
        };
        let (a, b) = ("a.gguf".to_owned(), "b.gguf".to_owned());
        let small = Some("small.gguf".to_owned());
        assert_eq!(models(Form::Own, Submission::default()), (a.clone(), small.clone(), true));
        assert_eq!(models(Form::Own, asked()), (b, None, false));
        assert_eq!(models(Form::OpenAi(Endpoint::Chat), asked()), (a, small, true));
    }

    #[test]
    fn a_model_is_looked_up_once_and_one_that_is_missing_is_its_lines_or_the_batchs_fault() {
        let dir = tempfile::tempdir().unwrap();
        let mut defaults = defaults(&dir, &["a"], Submission::default());
        let complete = |defaults: &mut Defaults, model: Option<&str>| {
            let asked = Submission { model: model.map(str::to_owned), ..Submission::default() };
            defaults.complete(&named(Form::Own), asked)
        };
        complete(&mut defaults, None).unwrap();
        let missing = complete(&mut defaults, Some("no-such")).unwrap_err();
        assert!(missing.failure.code == ErrorCode::ModelNotFound && !missing.general_model);
        std::fs::remove_file(dir.path().join("models/a.gguf")).unwrap();
        complete(&mut defaults, None).unwrap();
        defaults.models.clear();
        assert!(complete(&mut defaults, None).unwrap_err().general_model);
    }
}
