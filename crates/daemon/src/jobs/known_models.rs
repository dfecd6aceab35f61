//! What is known of models on disk: a value that says when one must be looked at before a job
//! begins, and when the wait for that is over.
//!
//! A model's files may be replaced while it is in use. So a job begins only with knowledge that is
//! fresh. If the disk does not answer in time, a job goes on with what was known before; without
//! any knowledge it keeps waiting.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use threadrunner_core::ModelRef;
use threadrunner_home::ModelConfig;

use crate::model_files::ModelFiles;
use crate::models::{FoundModel, PATIENCE};

/// How long knowledge stays fresh. What clients submit is looked at each time.
const FRESH: Duration = Duration::from_secs(1);
/// How many models to remember.
const REMEMBERED: usize = 1024;

/// What is known of each model.
#[derive(Debug, Default)]
pub(super) struct KnownModels(HashMap<ModelRef, Known>);

#[derive(Debug, Default)]
struct Known {
    files: ModelFiles,
    settings: ModelConfig,
    /// When it was last looked at; `None` if never.
    seen: Option<Instant>,
    /// Whether `seen` is old, whatever the time.
    doubted: bool,
    /// When the look that is under way is late; nothing if it is.
    asked: Option<Option<Instant>>,
}

/// Whether a job of a model may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consulted {
    /// It may: the model is known.
    Known,
    /// The model is to be looked at first.
    Look,
    /// The model is being looked at.
    Wait,
}

impl KnownModels {
    /// Whether a job of this model may begin. With [`Consulted::Look`], counts the model as being
    /// looked at from then on.
    pub(super) fn consult(&mut self, model: &ModelRef, now: Instant) -> Consulted {
        if model.path.is_none() && model.draft.is_none() {
            // There is no file to look at.
            return Consulted::Known;
        }
        if self.0.len() >= REMEMBERED && !self.0.contains_key(model) {
            self.0.retain(|_, known| known.asked.is_some());
        }
        let known = self.0.entry(model.clone()).or_default();
        let fresh = known.seen.is_some_and(|seen| now < seen + FRESH) && !known.doubted;
        match known.asked {
            _ if fresh => Consulted::Known,
            Some(None) if known.seen.is_some() => Consulted::Known,
            Some(_) => Consulted::Wait,
            None => {
                known.asked = Some(Some(now + PATIENCE));
                known.doubted = false;
                Consulted::Look
            }
        }
    }

    /// Notes how a model was found. A doubt stays: the look may have begun before it.
    pub(super) fn saw(&mut self, found: FoundModel, now: Instant) {
        let FoundModel { model, files, settings } = found;
        let known = self.0.entry(model).or_default();
        (known.files, known.settings, known.seen) = (files, settings, Some(now));
    }

    /// Notes that the look that was asked for has ended.
    pub(super) fn looked(&mut self, model: &ModelRef) {
        if let Some(known) = self.0.get_mut(model) {
            known.asked = None;
        }
    }

    /// Has a model looked at before its next job begins: the job may come from after a change.
    pub(super) fn doubt(&mut self, model: &ModelRef) {
        if let Some(known) = self.0.get_mut(model) {
            known.doubted = true;
        }
    }

    /// A model's files when it was last looked at.
    pub(super) fn files(&self, model: &ModelRef) -> ModelFiles {
        self.0.get(model).map(|known| known.files.clone()).unwrap_or_default()
    }

    /// A model's settings.
    pub(super) fn settings(&self, model: &ModelRef) -> ModelConfig {
        self.0.get(model).map(|known| known.settings.clone()).unwrap_or_default()
    }

    /// Notes which looks are late.
    pub(super) fn time(&mut self, now: Instant) {
        for (model, known) in &mut self.0 {
            if let Some(until) = &mut known.asked
                && until.is_some_and(|until| until <= now)
            {
                tracing::warn!(model = model.name(), "the model's disk does not answer");
                *until = None;
            }
        }
    }

    /// When the next look is late.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|known| known.asked.flatten()).min()
    }
}

#[cfg(test)]
mod tests {
    use threadrunner_core::BackendKind;

    use super::*;

    fn model(path: Option<&str>) -> ModelRef {
        ModelRef { backend: BackendKind::Llama, path: path.map(Into::into), draft: None }
    }

    fn found(model: &ModelRef) -> FoundModel {
        let (files, settings) = (ModelFiles::default(), ModelConfig::default());
        FoundModel { model: model.clone(), files, settings }
    }

    #[test]
    fn a_model_is_looked_at_once_before_its_jobs_begin_and_again_when_that_is_old() {
        let (mut models, start, a) = (KnownModels::default(), Instant::now(), model(Some("a")));
        assert_eq!(models.consult(&model(None), start), Consulted::Known, "it has no file");
        assert_eq!(models.consult(&a, start), Consulted::Look);
        assert_eq!(models.consult(&a, start), Consulted::Wait);
        models.saw(found(&a), start);
        models.looked(&a);
        assert_eq!(models.consult(&a, start), Consulted::Known);
        assert_eq!(models.consult(&a, start + FRESH), Consulted::Look);
        // What a client's submission found counts as well.
        models.saw(found(&a), start + FRESH);
        assert_eq!(models.consult(&a, start + FRESH), Consulted::Known);
        models.looked(&a);
        models.doubt(&a);
        assert_eq!(models.consult(&a, start + FRESH), Consulted::Look);
        // A doubt that arises during a look asks for another one.
        models.doubt(&a);
        models.saw(found(&a), start + FRESH);
        models.looked(&a);
        assert_eq!(models.consult(&a, start + FRESH), Consulted::Look);
        models.saw(found(&a), start + FRESH);
        models.looked(&a);
        assert_eq!(models.consult(&a, start + FRESH), Consulted::Known);
    }

    #[test]
    fn a_disk_that_does_not_answer_is_waited_for_only_if_nothing_is_known() {
        let (mut models, start) = (KnownModels::default(), Instant::now());
        let (known, unknown) = (model(Some("known")), model(Some("unknown")));
        models.saw(found(&known), start.checked_sub(FRESH).unwrap());
        for model in [&known, &unknown] {
            assert_eq!(models.consult(model, start), Consulted::Look);
        }
        let late = models.next().unwrap();
        assert_eq!(late, start + PATIENCE);
        models.time(late);
        assert_eq!(models.next(), None, "it is told once");
        assert_eq!(models.consult(&known, late), Consulted::Known);
        assert_eq!(models.consult(&unknown, late), Consulted::Wait);
        models.looked(&known);
        assert_eq!(models.consult(&known, late), Consulted::Look, "the disk may be back");
    }

    #[test]
    fn models_that_are_not_looked_at_are_forgotten_when_there_are_too_many() {
        let (mut models, now) = (KnownModels::default(), Instant::now());
        let asked = model(Some("asked"));
        models.consult(&asked, now);
        for number in 0..2 * REMEMBERED {
            let model = model(Some(&number.to_string()));
            models.consult(&model, now);
            models.saw(found(&model), now);
            models.looked(&model);
        }
        assert!(models.0.len() <= REMEMBERED && models.0.contains_key(&asked));
    }
}
