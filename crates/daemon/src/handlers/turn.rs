//! What a turn of a session takes over from the turn before it, where it does not say otherwise.

use std::path::PathBuf;

use threadrunner_core::protocol::{ModelQuery, Submission};
use threadrunner_core::{ErrorCode, Failure, JobSpec, ModelRef, SessionName};

use crate::workspaces::Served;

/// What the last turn of a session left to the next one.
pub(super) struct Earlier {
    session: SessionName,
    model: Option<ModelRef>,
    system: Option<String>,
}

/// Checks what a submission says of a session, and looks at that, if it has been begun.
pub(super) async fn earlier(
    workspace: &Served,
    submission: &Submission,
) -> Result<Option<Earlier>, Failure> {
    let invalid = |message: &str| Err(Failure::new(ErrorCode::InvalidRequest, message));
    let Some(session) = submission.session.clone() else {
        return match submission.replaces {
            Some(_) => invalid("replaces goes with a session: it names the turn to be replaced"),
            None => Ok(None),
        };
    };
    if submission.raw {
        return invalid("a session is a conversation, and raw sends the prompt without one");
    }
    if submission.parent.is_some() {
        return invalid("a turn's parent is the last turn of its session: leave it out");
    }
    let read = move |reader: &threadrunner_workspace::Reader| {
        let Some(file) = reader.session(&session)? else { return Ok(None) };
        let Some(last) = file.last() else { return Ok(None) };
        // One whose job is gone is refused when the turn begins, with what is missing.
        let JobSpec { model, system, .. } = reader.spec(last).unwrap_or_default();
        Ok(Some(Earlier { session, model, system }))
    };
    workspace.read(read).await
}

impl Earlier {
    /// The model to ask for.
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

    /// Why its model cannot be asked.
    pub(super) fn no_model(&self, failure: Failure) -> Failure {
        if failure.code != ErrorCode::ModelNotFound {
            return failure;
        }
        let message = format!("session '{}': {}", self.session, failure.message);
        Failure::new(failure.code, message).hint("-m NAME goes on with another model")
    }

    /// Completes the instructions: those of the session, also if it has none.
    pub(super) fn instruct(self, said: Option<String>, spec: &mut JobSpec) {
        spec.system = said.or(self.system);
    }
}

fn as_text(path: &Option<PathBuf>) -> Option<String> {
    path.as_ref().map(|path| path.to_string_lossy().into_owned())
}
