//! Finds names of models that lead nowhere.

use threadrunner_core::{BackendKind, Failure};

use crate::model_files::by_name;
use crate::{Config, Home, resolve_backend};

impl Config {
    /// The keys that name a model which does not exist, with the reason. Not a mistake in the file:
    /// the model may be added later.
    pub fn dangling_names(&self, home: &Home) -> Vec<(String, Failure)> {
        if resolve_backend(None, home, self) == BackendKind::Dummy {
            return Vec::new();
        }
        let general = self.model.iter().map(|name| ("model".to_owned(), name));
        let aliases = self.aliases.keys().map(|alias| (format!("[aliases]: {alias}"), alias));
        let models = self.models.iter().flat_map(|(name, model)| {
            let draft = model.draft.iter().filter(|draft| *draft != "none");
            std::iter::once((format!("[models.{name}]"), name))
                .chain(draft.map(move |draft| (format!("[models.{name}]: draft"), draft)))
        });
        let workspaces = self.workspaces.iter().flat_map(|(name, workspace)| {
            let model = workspace.model.iter();
            model.map(move |model| (format!("[workspaces.{name}]: model"), model))
        });
        let named = general.chain(aliases).chain(models).chain(workspaces);
        named
            .filter_map(|(key, name)| Some((key, by_name(home, self, name, &home.root).err()?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn names_that_lead_nowhere_are_told_with_their_keys() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::resolve(dir.path(), |name| match name {
            "THREADRUNNER_HOME" => Some(dir.path().into()),
            "THREADRUNNER_BACKEND" => Some("llama".into()),
            _ => None,
        })
        .unwrap();
        std::fs::create_dir(&home.models_dir).unwrap();
        std::fs::write(home.models_dir.join("good.gguf"), "GGUF").unwrap();
        let text = "model = \"gone\"\n[aliases]\na = \"good\"\nb = \"bad\"\n\
                    [models.good]\ndraft = \"worse\"\n[workspaces.w]\nmodel = \"a\"\n";
        let config = Config::parse(text, Path::new("config.toml")).unwrap();
        let dangling = config.dangling_names(&home);
        let keys: Vec<_> = dangling.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["model", "[aliases]: b", "[models.good]: draft"]);
        assert!(dangling[0].1.message.contains("'gone'"), "{}", dangling[0].1);
    }
}
