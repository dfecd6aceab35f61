//! `config.toml`, read once by a program that needs it in several places.

use std::sync::{Arc, OnceLock};

use threadrunner_core::Failure;

use crate::{Config, Home};

/// What was read of `config.toml`, shared by the clones of a [`Home`]. It says nothing about which
/// home that is, so all are equal.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReadOnce(Arc<OnceLock<Read>>);

#[derive(Debug)]
struct Read {
    text: Result<Option<String>, Failure>,
    config: Result<Config, Failure>,
}

impl PartialEq for ReadOnce {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ReadOnce {}

impl Home {
    fn read_once(&self) -> &Read {
        self.read.0.get_or_init(|| {
            let text = Config::text(self);
            let config =
                text.clone().and_then(|text| Config::read(&text.unwrap_or_default(), self));
            Read { text, config }
        })
    }

    /// The same home, which reads the configuration anew.
    #[must_use]
    pub fn reread(&self) -> Self {
        let mut home = self.clone();
        home.read = ReadOnce::default();
        home
    }

    /// The configuration as it was when this home or a clone of it was first asked for it. Where
    /// the file may have changed since, use [`Config::load`].
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn config(&self) -> Result<&Config, Failure> {
        self.read_once().config.as_ref().map_err(Failure::clone)
    }

    /// The text that [`Home::config`] is read from; `None` if there is no file.
    ///
    /// # Errors
    /// As [`Config::text`].
    pub fn config_text(&self) -> Result<Option<&str>, Failure> {
        self.read_once().text.as_ref().map(Option::as_deref).map_err(Failure::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::home_with;

    #[test]
    fn a_home_and_its_clones_read_the_configuration_once() {
        let (_dir, home) = home_with(&[]);
        std::fs::write(&home.config_file, "max_queue = 7\n").unwrap();
        let clone = home.clone();
        assert_eq!(home.config().unwrap().max_queue, 7);
        std::fs::write(&home.config_file, "max_queue = 8\n").unwrap();
        assert_eq!(clone.config().unwrap().max_queue, 7);
        assert_eq!(clone.config_text().unwrap(), Some("max_queue = 7\n"));
        assert_eq!(Config::load(&home).unwrap().max_queue, 8);
        // What is wrong stays wrong, too.
        let (_dir, home) = home_with(&[]);
        std::fs::write(&home.config_file, "max_queue = \n").unwrap();
        assert!(home.config().is_err());
        std::fs::remove_file(&home.config_file).unwrap();
        assert!(home.config().is_err());
    }
}
