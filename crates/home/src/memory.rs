//! The memory budget for models, and the settings of single models.

use serde::{Deserialize, Deserializer};
use threadrunner_core::engine_protocol::{DummyScript, EngineOptions};
use threadrunner_core::{BackendKind, InvalidSize, KeepAlive, ModelRef, parse_size};

use crate::amount::Amount;
use crate::model_files::by_name;
use crate::{Config, Home};

/// How much memory all loaded models together may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MemoryBudget {
    /// This share of the memory that is free or already used by engines.
    Share(f64),
    /// This many bytes.
    Bytes(u64),
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::Share(0.7)
    }
}

impl<'de> Deserialize<'de> for MemoryBudget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Amount::deserialize(deserializer)? {
            Amount::Number(number) => number.to_string(),
            Amount::Text(text) => text,
        };
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The smallest budget, in bytes: no model that can answer anything is smaller.
const SMALLEST: u64 = 1_000_000;

impl MemoryBudget {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.trim().strip_suffix('%') {
            let percent = percent.trim().parse::<f64>().ok();
            let share = percent.filter(|percent| (1.0..=100.0).contains(percent));
            return share
                .map(|percent| Self::Share(percent / 100.0))
                .ok_or_else(|| format!("'{text}' is not a share from \"1 %\" to \"100 %\""));
        }
        match parse_size(text) {
            Ok(bytes @ SMALLEST..) => Ok(Self::Bytes(bytes)),
            Ok(_) => Err(format!("'{text}' is too small for any model")),
            Err(InvalidSize::NoUnit(number)) => {
                let share = Self::parse(&format!("{number} %")).is_ok();
                let share = if share { format!("\"{number} %\" or ") } else { String::new() };
                Err(format!(
                    "{number} without a unit is {number} bytes: write {share}\"{number} GB\""
                ))
            }
            Err(InvalidSize::NotASize(text)) => Err(format!(
                "'{text}' is neither a size like \"8 GB\" nor a share from \"1 %\" to \"100 %\""
            )),
        }
    }
}

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
    fn a_budget_is_bytes_a_size_or_a_share() {
        let budget =
            |text: &str| read(&format!("memory_budget = {text}")).map(|it| it.memory_budget);
        assert_eq!(read("").unwrap().memory_budget, MemoryBudget::Share(0.7));
        assert_eq!(budget("8000000000"), Ok(MemoryBudget::Bytes(8_000_000_000)));
        assert_eq!(budget("\"8 GB\""), Ok(MemoryBudget::Bytes(8_000_000_000)));
        assert_eq!(budget("\"2GiB\""), Ok(MemoryBudget::Bytes(2 << 30)));
        assert_eq!(budget("\"50 %\""), Ok(MemoryBudget::Share(0.5)));
        for wrong in
            ["\"0 %\"", "\"101%\"", "\"half\"", "\"7d\"", "-1", "0", "0.5", "\"70 B\"", "true"]
        {
            assert!(budget(wrong).unwrap_err().contains("line 1"), "{wrong}");
        }
        // Probably a share or another unit was meant, and not this many bytes.
        for slip in ["70", "\"70\""] {
            let message = budget(slip).unwrap_err();
            assert!(message.contains("\"70 %\" or \"70 GB\""), "{message}");
        }
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
