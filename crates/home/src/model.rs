//! Resolves the backend and the model of a request.

use std::path::{Path, PathBuf};

use threadrunner_core::{BackendKind, Failure, ModelRef};

use crate::model_files::by_name;
use crate::{Config, Home, WorkspaceSettings, default_model};

/// The backend for a request: the flag, else `THREADRUNNER_BACKEND`, else the configuration, else
/// that of the engine ([`Home::engine_backend`]), which may have to be asked.
pub fn resolve_backend(flag: Option<BackendKind>, home: &Home, config: &Config) -> BackendKind {
    flag.or(home.backend).or(config.backend).unwrap_or_else(|| home.engine_backend())
}

/// The model that `name` means; without a name, the default one ([`default_model`]).
///
/// A name is a path (it has a slash, or it ends in `.gguf` and exists), the name or the stem of a
/// file in `models/`, or an alias. The returned path is absolute, and a file was found there. The
/// dummy needs no file.
///
/// # Errors
/// [`ErrorCode::NoModel`](threadrunner_core::ErrorCode::NoModel) when no name is given and there is no default;
/// [`ErrorCode::ModelNotFound`](threadrunner_core::ErrorCode::ModelNotFound) when no model has that name. The hint says which models there are.
pub fn resolve_model(
    home: &Home,
    config: &Config,
    backend: BackendKind,
    name: Option<&str>,
) -> Result<ModelRef, Failure> {
    if backend == BackendKind::Dummy {
        return Ok(ModelRef {
            backend,
            path: name.and_then(|name| dummy(home, config, name)),
            draft: None,
        });
    }
    let path = match name {
        Some(name) => by_name(home, config, name, Path::new(""))?,
        None => default_model(home, config)?.0,
    };
    Ok(ModelRef { backend, path: Some(path), draft: None })
}

/// A path that identifies the dummy of `[models.NAME]`. No such file exists.
fn dummy(home: &Home, config: &Config, name: &str) -> Option<PathBuf> {
    let mut paths = config.models.keys().map(|known| (known, home.models_dir.join(known)));
    let found = paths.find(|(known, path)| known.as_str() == name || path.as_os_str() == name)?;
    Some(found.1)
}

/// The model that `name` means in a workspace; without a name, the workspace's own, which was
/// chosen together with it, else the general default of [`resolve_model`].
///
/// # Errors
/// As [`resolve_model`].
pub fn resolve_workspace_model(
    home: &Home,
    config: &Config,
    workspace: &WorkspaceSettings,
    backend: BackendKind,
    name: Option<&str>,
) -> Result<ModelRef, Failure> {
    match (name, &workspace.model, backend) {
        (None, Some(own), BackendKind::Llama) => {
            let path = by_name(home, config, own, &home.root).map_err(|failure| Failure {
                message: format!(
                    "the model of the workspace '{}': {}",
                    workspace.name, failure.message
                ),
                ..failure
            })?;
            Ok(ModelRef { backend, path: Some(path), draft: None })
        }
        _ => resolve_model(home, config, backend, name),
    }
}

/// The name by which a request refuses a draft model, whatever is configured.
const NO_DRAFT: &str = "none";

/// The same model with the draft model that `name` means; without a name, with the one that
/// `[models.NAME]` configures. `none` disables the draft model.
///
/// # Errors
/// [`ErrorCode::ModelNotFound`](threadrunner_core::ErrorCode::ModelNotFound) when no model has that name.
pub fn resolve_draft(
    home: &Home,
    config: &Config,
    model: ModelRef,
    name: Option<&str>,
) -> Result<ModelRef, Failure> {
    let configured = config.model_settings(home, &model).draft;
    // A name in the configuration means the same from every working directory.
    let (name, base) = match (name, &configured) {
        (Some(name), _) => (name, Path::new("")),
        (None, Some(name)) => (name.as_str(), home.root.as_path()),
        (None, None) => return Ok(model),
    };
    if name == NO_DRAFT {
        return Ok(ModelRef { draft: None, ..model });
    }
    let draft = match model.backend {
        // There is no file: the name is enough.
        BackendKind::Dummy | BackendKind::Unknown => home.models_dir.join(name),
        BackendKind::Llama => by_name(home, config, name, base).map_err(|failure| Failure {
            message: format!("the draft model: {}", failure.message),
            ..failure
        })?,
    };
    Ok(ModelRef { draft: Some(draft), ..model })
}

#[cfg(test)]
pub(crate) mod tests;
