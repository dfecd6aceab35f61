//! What a session's turn inherits from the turn before it unless it says otherwise.

use std::path::PathBuf;

use threadrunner_core::protocol::{ModelQuery, Submission};
use threadrunner_core::{ErrorCode, Failure, JobSpec, ModelRef, SessionName};

use crate::workspaces::Served;

/// What a session's last turn passes on to the next one.
pub(super) struct Earlier {
    session: SessionName,
    model: Option<ModelRef>,
    system: Option<String>,
}

/// Checks a submission's use of a session, and reads the session's last turn if there is one.
pub(super) async fn earlier(
    workspace: &Served,
    submission: &Submission,
) -> Result<Option<Earlier>, Failure> {
    let invalid = |message: &str| Err(Failure::new(ErrorCode::InvalidRequest, message));
    let Some(session) = submission.session.clone() else {
        return match submission.replaces {
            Some(_) => invalid("replaces needs a session: it names the turn to replace"),
            None => Ok(None),
        };
    };
    if submission.raw {
        return invalid("raw sends the prompt without a conversation, so it takes no session");
    }
    if submission.parent.is_some() {
        return invalid("a turn's parent is the last turn of its session: leave it out");
    }
    let read = move |reader: &threadrunner_workspace::Reader| {
        let Some(file) = reader.session(&session)? else { return Ok(None) };
        let Some(last) = file.last() else { return Ok(None) };
        // If the last turn's job is gone, the turn is refused when it begins, with what is missing.
        let JobSpec { model, system, .. } = reader.spec(last).unwrap_or_default();
        Ok(Some(Earlier { session, model, system }))
    };
    workspace.read(read).await
}

impl Earlier {
    /// Completes the model query of a turn. `usual` says that the query's model is only a default.
    pub(super) fn model(&self, asked: ModelQuery, usual: bool) -> ModelQuery {
        let said = !usual && (asked.backend.is_some() || asked.model.is_some());
        match &self.model {
            Some(model) if !said => ModelQuery {
                backend: Some(model.backend),
                model: as_text(&model.path),
                draft: asked.draft.or_else(|| as_text(&model.draft)),
            },
            _ => asked,
        }
    }

    /// Adds the session to the failure of a model that is missing.
    pub(super) fn no_model(&self, failure: Failure) -> Failure {
        if failure.code != ErrorCode::ModelNotFound {
            return failure;
        }
        let message = format!("session '{}': {}", self.session, failure.message);
        Failure::new(failure.code, message).hint("-m NAME continues with another model")
    }

    /// Completes the instructions: the submission's, else the session's, which may have none.
    pub(super) fn instruct(self, said: Option<String>, spec: &mut JobSpec) {
        spec.system = said.or(self.system);
    }
}

fn as_text(path: &Option<PathBuf>) -> Option<String> {
    path.as_ref().map(|path| path.to_string_lossy().into_owned())
}
