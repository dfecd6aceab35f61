//! The model for requests that name none: the one chosen, or used last.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use threadrunner_core::{ErrorCode, Failure};
use toml::Spanned;

use crate::file::put;
use crate::model_files::{by_name, canonical, dangling_links, file, list_models};
use crate::{Config, Home, Links, read_regular, replace_file};

/// In the cache: the path of the last model used.
const LAST: &str = "last_model";
/// The longest path, in bytes.
const PATH_BYTES: u64 = 4096;

/// Why a model is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChosenBy {
    /// `THREADRUNNER_MODEL_PATH` names it.
    Variable,
    /// `model` in `config.toml` names it.
    Configuration,
    /// It is the only one in `models/`.
    Only,
    /// It was used last.
    LastUse,
}

/// The model for requests that name none, and why: that of `THREADRUNNER_MODEL_PATH`, else the
/// configured one, else the only one in `models/`, else the last one used.
///
/// # Errors
/// [`ErrorCode::NoModel`] when there is no default; [`ErrorCode::ModelNotFound`] when the default
/// does not exist.
pub fn default_model(home: &Home, config: &Config) -> Result<(PathBuf, ChosenBy), Failure> {
    if let Some(path) = &home.model_path {
        let path = file(path).map_err(|why| {
            Failure::new(
                ErrorCode::ModelNotFound,
                format!("THREADRUNNER_MODEL_PATH names {}, but {why}", path.display()),
            )
            .hint("set it to the path of a GGUF file, or unset it")
        })?;
        return Ok((path, ChosenBy::Variable));
    }
    if let Some(name) = &config.model {
        // A name in the configuration means the same from every working directory.
        return Ok((by_name(home, config, name, &home.root)?, ChosenBy::Configuration));
    }
    let models = list_models(home)?;
    if let [model] = models.as_slice() {
        return Ok((canonical(&model.path)?, ChosenBy::Only));
    }
    if let Some(path) = last_model(home) {
        return Ok((path, ChosenBy::LastUse));
    }
    if models.is_empty() {
        if let Some(link) = dangling_links(home).first() {
            return Err(link.failure());
        }
        return Err(Failure::new(
            ErrorCode::NoModel,
            format!("there is no model: {} holds no .gguf file", home.models_dir.display()),
        )
        .hint(where_to_get_one(home)));
    }
    let names: Vec<_> = models.iter().map(|model| model.name.as_str()).collect();
    Err(Failure::new(ErrorCode::NoModel, format!("no default model among {}", names.join(", ")))
        .hint("`threadrunner models default NAME` chooses one; -m NAME uses one this time"))
}

/// A hint for users without a model, whether or not they have a checkout.
pub fn where_to_get_one(home: &Home) -> String {
    format!(
        "get a GGUF file, for instance from https://huggingface.co/models?library=gguf, and put it or a \
         link to it into {}; or name it: -m FILE",
        home.models_dir.display()
    )
}

/// Records that a model was used.
///
/// # Errors
/// The file cannot be written.
pub fn note_last_model(home: &Home, model: &Path) -> io::Result<()> {
    put(&home.cache_dir.join(LAST), |file| file.write_all(model.as_os_str().as_bytes()))
}

/// The last model used, if it still exists.
fn last_model(home: &Home) -> Option<PathBuf> {
    let path = read_regular(&home.cache_dir.join(LAST), PATH_BYTES, Links::Followed).ok()?;
    file(Path::new(&std::ffi::OsString::from_vec(path))).ok()
}

/// Makes `name` the default model in `config.toml`, and leaves the rest of the file as it is.
///
/// # Errors
/// No model has that name, or the file cannot be read, understood or written.
pub fn choose_model(home: &Home, name: &str) -> Result<PathBuf, Failure> {
    let config = Config::load(home)?;
    let path = by_name(home, &config, name, Path::new(""))?;
    check_magic(&path)?;
    // Only an absolute path means the same from everywhere.
    let is_path =
        name.contains('/') || by_name(home, &config, name, &home.root).ok().as_ref() != Some(&path);
    let written = match is_path {
        true => path.to_str().ok_or_else(|| {
            let message = format!("the model's path is not UTF-8: {}", path.display());
            Failure::new(ErrorCode::ModelNotFound, message)
                .hint("rename the file, or link to it from the home's models directory")
        })?,
        false => name,
    };
    let text = Config::text(home)?.unwrap_or_default();
    let changed = with_model(&text, written);
    if Config::parse(&changed, &home.config_file)?.model.as_deref() != Some(written) {
        let message = format!("cannot set the model in {}", home.config_file.display());
        return Err(Failure::new(ErrorCode::Config, message)
            .hint(format!("write `model = {}` there", quoted(written))));
    }
    replace_file(&home.config_file, changed.as_bytes()).map_err(|error| {
        let file = home.config_file.display();
        Failure::new(ErrorCode::Io, format!("cannot write {file}: {error}"))
    })?;
    Ok(path)
}

/// Refuses a file that is no GGUF file, which begins with that word.
fn check_magic(path: &Path) -> Result<(), Failure> {
    let mut magic = Vec::new();
    let read = match path.is_file() {
        true => fs::File::open(path).and_then(|file| file.take(4).read_to_end(&mut magic)),
        false => Ok(0),
    };
    let message = match read {
        Ok(_) if magic == *b"GGUF" => return Ok(()),
        Ok(_) => format!("{} is not a GGUF file", path.display()),
        Err(error) => format!("cannot read {}: {error}", path.display()),
    };
    Err(Failure::new(ErrorCode::ModelLoad, message))
}

/// The text of a `config.toml`, changed to this model.
fn with_model(text: &str, model: &str) -> String {
    #[derive(Deserialize)]
    struct Model {
        model: Option<Spanned<String>>,
    }
    let place = toml::from_str::<Model>(text).ok().and_then(|it| it.model).map(|it| it.span());
    match place {
        Some(place) => {
            let mut text = text.to_owned();
            text.replace_range(place, &quoted(model));
            text
        }
        // Before the first table: below it, the key would belong to that table.
        None => format!("model = {}\n{text}", quoted(model)),
    }
}

/// Quotes a text as a TOML string.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::home_with as home;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn default(home: &Home) -> Result<(PathBuf, ChosenBy), Failure> {
        default_model(home, &Config::load(home).unwrap())
    }

    #[test]
    fn of_several_the_one_used_last_answers_until_one_is_chosen() {
        let (_dir, home) = home(&["a.gguf", "b.gguf"]);
        let model = |name: &str| home.models_dir.join(name);
        assert!(default(&home).unwrap_err().hint.unwrap().contains("models default"));
        for name in ["b.gguf", "a.gguf"] {
            note_last_model(&home, &model(name)).unwrap();
            assert_eq!(default(&home).unwrap(), (model(name), ChosenBy::LastUse));
        }
        assert_eq!(choose_model(&home, "b").unwrap(), model("b.gguf"));
        assert_eq!(default(&home).unwrap(), (model("b.gguf"), ChosenBy::Configuration));
    }

    #[test]
    fn what_was_used_last_counts_only_where_there_is_a_choice_and_while_it_is_there() {
        let (_dir, home) = home(&["a.gguf"]);
        let elsewhere = home.root.join("elsewhere.gguf");
        fs::write(&elsewhere, "GGUF").unwrap();
        note_last_model(&home, &elsewhere).unwrap();
        let only = home.models_dir.join("a.gguf");
        assert_eq!(default(&home).unwrap(), (only.clone(), ChosenBy::Only));
        fs::remove_file(&only).unwrap();
        assert_eq!(default(&home).unwrap(), (elsewhere.clone(), ChosenBy::LastUse));
        fs::remove_file(&elsewhere).unwrap();
        let failure = default(&home).unwrap_err();
        assert!(failure.message.contains("holds no .gguf file"), "{failure}");
        // A note that is not a file.
        fs::remove_file(home.cache_dir.join(LAST)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", home.cache_dir.join(LAST)).unwrap();
        assert_eq!(default(&home).unwrap_err().code, ErrorCode::NoModel);
    }

    #[test]
    fn only_the_models_name_changes_in_the_configuration() {
        for (before, after) in [
            ("", "model = \"a\"\n"),
            ("# mine\n[engine]\nthreads = 2\n", "model = \"a\"\n# mine\n[engine]\nthreads = 2\n"),
            ("model = 'b' # best\ngrace = 1\n", "model = \"a\" # best\ngrace = 1\n"),
            ("grace = 1\n\"model\" = \"\"\"b\"\"\"\n", "grace = 1\n\"model\" = \"a\"\n"),
            ("[workspaces.w]\nmodel = \"b\"\n", "model = \"a\"\n[workspaces.w]\nmodel = \"b\"\n"),
        ] {
            assert_eq!(with_model(before, "a"), after);
        }
        let odd = "we\"ird\\\u{7f}ä";
        let config = Config::parse(&with_model("", odd), Path::new("c")).unwrap();
        assert_eq!(config.model.as_deref(), Some(odd));
    }

    #[test]
    fn what_is_chosen_must_be_there_and_a_path_is_written_whole() {
        let (_dir, home) = home(&["a.gguf", "b.gguf"]);
        assert_eq!(choose_model(&home, "c").unwrap_err().code, ErrorCode::ModelNotFound);
        assert!(!home.config_file.exists());
        let elsewhere = home.root.join("elsewhere.gguf");
        fs::write(&elsewhere, "GGUF").unwrap();
        let roundabout = home.models_dir.join("../elsewhere.gguf");
        choose_model(&home, roundabout.to_str().unwrap()).unwrap();
        let text = fs::read_to_string(&home.config_file).unwrap();
        assert_eq!(text, format!("model = \"{}\"\n", elsewhere.display()));
    }

    #[test]
    fn a_configuration_that_is_a_link_stays_one_with_its_permissions() {
        let (dir, home) = home(&["a.gguf", "b.gguf"]);
        let own = dir.path().join("own.toml");
        fs::write(&own, "grace = 1\n").unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&own, &home.config_file).unwrap();
        choose_model(&home, "a").unwrap();
        assert!(home.config_file.is_symlink());
        assert_eq!(fs::read_to_string(&own).unwrap(), "model = \"a\"\ngrace = 1\n");
        assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o640);
        // A file that cannot be parsed is left alone.
        fs::write(&own, "grace = \n").unwrap();
        assert_eq!(choose_model(&home, "a").unwrap_err().code, ErrorCode::Config);
        assert_eq!(fs::read_to_string(&own).unwrap(), "grace = \n");
    }
}
