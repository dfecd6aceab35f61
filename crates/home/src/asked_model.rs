//! The model that a caller asks for, resolved where the caller's environment counts.

use std::path::{Path, PathBuf};

use threadrunner_core::{BackendKind, ErrorCode, Failure, ModelRef, WorkspaceName};

use crate::{Home, resolve_backend, resolve_draft, resolve_workspace_model};

/// A model as it is sent to the daemon: the one that was asked for, or the caller's default.
///
/// Every client that acts for a person resolves names here, because the person's environment and
/// working directory count, not the daemon's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedModel {
    /// The backend.
    pub backend: BackendKind,
    /// The model's path; `None` for a dummy without settings, and for [`AskedModel::usual`] if
    /// there is no default.
    pub path: Option<String>,
    /// The draft model, if one was asked for: a path, or `none`.
    pub draft: Option<String>,
}

impl AskedModel {
    /// The model of that name in a workspace, or the default if `model` is `None`;
    /// likewise for `backend`.
    ///
    /// # Errors
    /// As [`resolve_workspace_model`]; [`ErrorCode::Config`] if the configuration cannot be read;
    /// [`ErrorCode::ModelNotFound`] if the path is not UTF-8.
    pub fn named(
        home: &Home,
        workspace: Option<&WorkspaceName>,
        backend: Option<BackendKind>,
        model: Option<&str>,
    ) -> Result<Self, Failure> {
        let config = home.config()?;
        let backend = resolve_backend(backend, home, config);
        let workspace = config.workspace(home, workspace)?;
        let path = resolve_workspace_model(home, config, &workspace, backend, model)?.path;
        Ok(Self { backend, path: path.map(sendable).transpose()?, draft: None })
    }

    /// The same, with this draft model if one was asked for.
    ///
    /// # Errors
    /// As [`asked_draft`].
    pub fn drafted_by(self, home: &Home, draft: Option<&str>) -> Result<Self, Failure> {
        let draft = draft.map(|draft| asked_draft(home, Some(self.backend), draft)).transpose()?;
        Ok(Self { draft, ..self })
    }

    /// The caller's default, for a conversation that has no model of its own yet. It is no error if
    /// there is none: a conversation with a model does not need it.
    ///
    /// # Errors
    /// As [`AskedModel::named`], except that there may be no model.
    pub fn usual(home: &Home, workspace: Option<&WorkspaceName>) -> Result<Self, Failure> {
        match Self::named(home, workspace, None, None) {
            Err(failure)
                if matches!(failure.code, ErrorCode::NoModel | ErrorCode::ModelNotFound) =>
            {
                let backend = resolve_backend(None, home, home.config()?);
                Ok(Self { backend, path: None, draft: None })
            }
            resolved => resolved,
        }
    }

    /// The name to show to people.
    pub fn name(&self) -> String {
        let stem = self.path.as_deref().and_then(|path| Path::new(path).file_stem());
        stem.map_or_else(|| self.backend.to_string(), |stem| stem.to_string_lossy().into_owned())
    }
}

/// The path of the draft model of that name, as it is sent to the daemon, or `none`.
///
/// # Errors
/// As [`resolve_draft`]; [`ErrorCode::Config`] if the configuration cannot be read;
/// [`ErrorCode::ModelNotFound`] if the path is not UTF-8.
pub fn asked_draft(
    home: &Home,
    backend: Option<BackendKind>,
    name: &str,
) -> Result<String, Failure> {
    let config = home.config()?;
    let backend = resolve_backend(backend, home, config);
    let model = ModelRef { backend, path: None, draft: None };
    let draft = resolve_draft(home, config, model, Some(name))?.draft;
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

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::model::tests::home_with;

    const LLAMA: Option<BackendKind> = Some(BackendKind::Llama);

    #[test]
    fn the_callers_environment_and_the_workspace_choose() {
        let (_dir, mut home) = home_with(&["a.gguf", "b.gguf"]);
        let path = |name: &str| Some(home.models_dir.join(name).to_str().unwrap().to_owned());
        let (a, b) = (path("a.gguf"), path("b.gguf"));
        fs::write(&home.config_file, "[workspaces.work]\nmodel = \"b\"\n").unwrap();
        let asked = AskedModel::named(&home, Some(&"work".into()), LLAMA, None).unwrap();
        assert_eq!((&asked.path, asked.name().as_str()), (&b, "b"));
        let asked = AskedModel::named(&home, Some(&"work".into()), LLAMA, Some("a")).unwrap();
        assert_eq!(asked, AskedModel { backend: BackendKind::Llama, path: a.clone(), draft: None });
        assert_eq!(
            AskedModel::named(&home, None, LLAMA, None).unwrap_err().code,
            ErrorCode::NoModel
        );
        home.model_path = Some(home.models_dir.join("a.gguf"));
        assert_eq!(AskedModel::named(&home, None, LLAMA, None).unwrap().path, a);
        home.backend = Some(BackendKind::Dummy);
        let asked = AskedModel::named(&home, None, None, Some("a")).unwrap();
        assert_eq!((asked.backend, &asked.path), (BackendKind::Dummy, &None));
        assert_eq!(asked.name(), "dummy");
    }

    #[test]
    fn a_conversation_needs_no_default_and_a_prompt_does() {
        let (_dir, mut home) = home_with(&[]);
        home.backend = LLAMA;
        let failure = AskedModel::named(&home, None, None, None).unwrap_err();
        assert_eq!(failure.code, ErrorCode::NoModel);
        let usual = AskedModel::usual(&home, None).unwrap();
        assert_eq!(usual, AskedModel { backend: BackendKind::Llama, path: None, draft: None });

        let (_dir, mut home) = home_with(&[]);
        home.backend = LLAMA;
        fs::write(&home.config_file, "model = 5\n").unwrap();
        assert_eq!(AskedModel::usual(&home, None).unwrap_err().code, ErrorCode::Config);
    }

    #[test]
    fn a_draft_model_is_a_path_or_none_or_the_dummys_word() {
        let (_dir, home) = home_with(&["a.gguf", "small.gguf"]);
        let asked = AskedModel::named(&home, None, LLAMA, Some("a")).unwrap();
        let drafted = |name| asked.clone().drafted_by(&home, name).map(|asked| asked.draft);
        let small = home.models_dir.join("small.gguf");
        assert_eq!(drafted(Some("small")).unwrap().as_deref(), small.to_str());
        assert_eq!(drafted(Some("none")).unwrap().as_deref(), Some("none"));
        assert_eq!(drafted(None).unwrap(), None);
        assert_eq!(drafted(Some("no-such")).unwrap_err().code, ErrorCode::ModelNotFound);
        let dummys = asked_draft(&home, Some(BackendKind::Dummy), "anything").unwrap();
        assert_eq!(dummys, "anything");
    }

    #[test]
    fn a_path_that_cannot_be_sent_is_refused() {
        let (_dir, mut home) = home_with(&[]);
        let path = home.models_dir.join(OsStr::from_bytes(b"m\xff.gguf"));
        home.model_path = Some(path.clone());
        // Not every file system takes such a name.
        if fs::write(&path, "GGUF").is_ok() {
            let failure = AskedModel::named(&home, None, LLAMA, None).unwrap_err();
            assert!(failure.message.contains("not UTF-8"), "{failure}");
        }
    }
}
