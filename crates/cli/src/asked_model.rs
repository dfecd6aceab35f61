//! The model that a request asks for, resolved where the caller's environment counts.

use std::path::{Path, PathBuf};

use threadrunner_core::{BackendKind, ErrorCode, Failure, ModelRef};
use threadrunner_home::{Config, Home, resolve_backend, resolve_draft, resolve_workspace_model};

/// A model as it is sent to the daemon: the one that was asked for, or the caller's default.
#[derive(Debug, Clone, Default)]
pub(crate) struct AskedModel {
    pub(crate) backend: Option<BackendKind>,
    pub(crate) path: Option<String>,
    /// The draft model, if one was asked for.
    pub(crate) draft: Option<String>,
}

impl AskedModel {
    /// The model of that name, or the default if `model` is `None`; an error if there is none.
    pub(crate) fn named(
        home: &Home,
        workspace: Option<&str>,
        backend: Option<BackendKind>,
        model: Option<&str>,
    ) -> Result<Self, Failure> {
        let (backend, path) = resolve(home, workspace, backend, model)?;
        Ok(Self { backend: Some(backend), path, draft: None })
    }

    /// The same, with this draft model if one was asked for.
    pub(crate) fn drafted_by(self, home: &Home, draft: Option<&str>) -> Result<Self, Failure> {
        let draft =
            draft.map(|draft| resolve_asked_draft(home, self.backend, draft)).transpose()?;
        Ok(Self { draft, ..self })
    }

    /// The caller's default, for a conversation that has no model of its own yet. It is no error if
    /// there is none: a conversation with a model does not need it.
    pub(crate) fn usual(home: &Home, workspace: Option<&str>) -> Result<Self, Failure> {
        match Self::named(home, workspace, None, None) {
            Err(failure)
                if matches!(failure.code, ErrorCode::NoModel | ErrorCode::ModelNotFound) =>
            {
                let backend = resolve_backend(None, home, &Config::load(home)?);
                Ok(Self { backend: Some(backend), path: None, draft: None })
            }
            resolved => resolved,
        }
    }

    /// The name to show to people.
    pub(crate) fn name(&self) -> String {
        let stem = self.path.as_deref().and_then(|path| Path::new(path).file_stem());
        match (stem, self.backend) {
            (Some(stem), _) => stem.to_string_lossy().into_owned(),
            (None, Some(backend)) => backend.to_string(),
            (None, None) => "none".to_owned(),
        }
    }
}

/// The backend and the model's path, as they are sent to the daemon. They are resolved here because
/// the caller's environment counts, not the daemon's.
pub(crate) fn resolve(
    home: &Home,
    workspace: Option<&str>,
    backend: Option<BackendKind>,
    model: Option<&str>,
) -> Result<(BackendKind, Option<String>), Failure> {
    let config = Config::load(home)?;
    let backend = resolve_backend(backend, home, &config);
    let workspace = config.workspace(home, workspace)?;
    let path = resolve_workspace_model(home, &config, &workspace, backend, model)?.path;
    Ok((backend, path.map(sendable).transpose()?))
}

/// The path of the draft model of that name, as it is sent to the daemon, or `none`.
pub(crate) fn resolve_asked_draft(
    home: &Home,
    backend: Option<BackendKind>,
    name: &str,
) -> Result<String, Failure> {
    let config = Config::load(home)?;
    let backend = resolve_backend(backend, home, &config);
    let model = ModelRef { backend, path: None, draft: None };
    let draft = resolve_draft(home, &config, model, Some(name))?.draft;
    match (draft, backend) {
        (Some(path), BackendKind::Llama) => sendable(path),
        // The dummy backend has no files.
        (Some(_), BackendKind::Dummy | BackendKind::Unknown) | (None, _) => Ok(name.to_owned()),
    }
}

fn sendable(path: PathBuf) -> Result<String, Failure> {
    path.into_os_string().into_string().map_err(|path| {
        Failure::new(
            ErrorCode::ModelNotFound,
            format!("the model's path is not UTF-8: {}", path.to_string_lossy()),
        )
        .hint("rename the file, or link to it from the home's models directory")
    })
}
