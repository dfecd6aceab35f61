//! Settings of single models: `[models.NAME]` in `config.toml`.

use serde::Deserialize;
use threadrunner_core::engine_protocol::{DummyScript, EngineOptions};
use threadrunner_core::{BackendKind, KeepAlive, ModelRef};

use crate::model_files::by_name;
use crate::{Config, Home};

/// `[models.NAME]`: what differs for one model.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// How long it stays loaded without a request. Default: `idle_timeout`.
    pub keep_alive: Option<KeepAlive>,
    /// Unload it only by name, neither when idle nor to make room.
    pub pin: bool,
    /// Cells of the KV cache, for all sequences together.
    pub context: Option<u32>,
    /// The maximum number of sequences at once.
    pub sequences: Option<u32>,
    /// Its draft model: a name in `models/`, an alias, or a path (relative to the home).
    pub draft: Option<String>,
    /// The dummy's script, for tests. The dummy can then be requested by this table's name.
    pub dummy: Option<DummyScript>,
}

impl Config {
    /// The settings in `[models.NAME]` for a model; the defaults if there are none. A name means
    /// the same file as in a request.
    pub fn model_settings(&self, home: &Home, model: &ModelRef) -> ModelConfig {
        let named = self.models.iter().find(|(name, _)| match (model.backend, &model.path) {
            (BackendKind::Dummy, Some(path)) => home.models_dir.join(name) == *path,
            (BackendKind::Llama, Some(path)) => {
                by_name(home, self, name, &home.root).is_ok_and(|file| file == *path)
            }
            (BackendKind::Unknown, Some(_)) | (_, None) => false,
        });
        named.map(|(_, settings)| settings.clone()).unwrap_or_default()
    }
}

impl ModelConfig {
    /// The options for this model's engine. Those that the model does not set are from `general`.
    pub fn engine_options(&self, general: &EngineOptions) -> EngineOptions {
        EngineOptions {
            context: self.context.or(general.context),
            sequences: self.sequences.or(general.sequences),
            dummy: self.dummy.clone().or_else(|| general.dummy.clone()),
            ..general.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("config.toml")).map_err(|failure| failure.message)
    }

    #[test]
    fn what_is_said_of_a_model_holds_for_its_file_however_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::resolve(folder.path(), |name| {
            (name == "THREADRUNNER_HOME").then(|| folder.path().into())
        })
        .unwrap();
        std::fs::create_dir(&home.models_dir).unwrap();
        let file = home.models_dir.join("small.gguf");
        std::fs::write(&file, "GGUF").unwrap();
        let model = ModelRef {
            backend: BackendKind::Llama,
            path: Some(file.canonicalize().unwrap()),
            draft: None,
        };
        for name in ["small", "\"small.gguf\"", "s", "\"models/small.gguf\""] {
            let text =
                format!("[aliases]\ns = \"small\"\n[models.{name}]\npin = true\ncontext = 7\n");
            let settings = read(&text).unwrap().model_settings(&home, &model);
            assert!(settings.pin, "{name}");
            let general = EngineOptions { context: Some(1), batch: Some(2), ..Default::default() };
            let options = settings.engine_options(&general);
            assert_eq!((options.context, options.batch), (Some(7), Some(2)));
        }
        let others = read("[models.other]\npin = true\n").unwrap();
        assert_eq!(others.model_settings(&home, &model), ModelConfig::default());
        assert!(read("[models.a]\npinned = true\n").is_err());
    }
}
