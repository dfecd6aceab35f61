//! Lists model files, and resolves names to them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use threadrunner_core::{ErrorCode, Failure};

use crate::config::expand;
use crate::{Config, Home};

/// A model file in the home's `models/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// Its name: the stem of the file's name.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes; of a split model, the size of the first part.
    pub bytes: u64,
}

/// The content of the home's `models/` at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    models: Vec<ModelFile>,
    dangling: Vec<DanglingLink>,
}

impl Listing {
    /// Lists `models/`.
    ///
    /// # Errors
    /// As [`list_models`].
    pub fn read(home: &Home) -> Result<Self, Failure> {
        let home = &home.with_listing(None);
        Ok(Self { models: list_models(home)?, dangling: dangling_links(home) })
    }
}

/// The model files in the home's `models/`, sorted by name. Lists a split model by its first part.
///
/// # Errors
/// [`ErrorCode::Io`] when the directory exists and cannot be read.
pub fn list_models(home: &Home) -> Result<Vec<ModelFile>, Failure> {
    if let Some(listed) = &home.listed {
        return Ok(listed.models.clone());
    }
    let dir = &home.models_dir;
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Failure::new(
                ErrorCode::Io,
                format!("cannot read the directory {}: {error}", dir.display()),
            ));
        }
    };
    let mut models: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            // Follows links: a model may be on another disk.
            let metadata = fs::metadata(&path).ok().filter(|metadata| metadata.is_file())?;
            let name = path.file_stem()?.to_str()?.to_owned();
            (is_gguf(&path) && !is_later_part(&name)).then_some(ModelFile {
                name,
                bytes: metadata.len(),
                path,
            })
        })
        .collect();
    models.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(models)
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// Whether this is the stem of a later part of a split model: llama.cpp names the parts
/// `NAME-00002-of-00003.gguf` and opens them all through the first.
fn is_later_part(stem: &str) -> bool {
    let mut parts = stem.rsplit('-');
    let (Some(count), Some("of"), Some(part)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    number(count) && number(part) && part != "00001"
}

/// The file that `name` means. A relative path is relative to `base`, or to the working directory
/// if `base` is empty.
pub(crate) fn by_name(
    home: &Home,
    config: &Config,
    name: &str,
    base: &Path,
) -> Result<PathBuf, Failure> {
    let as_path = |name: &str, base: &Path| {
        let given = Path::new(name);
        if base.as_os_str().is_empty() { given.to_owned() } else { expand(given, base) }
    };
    if name.contains('/') {
        let path = as_path(name, base);
        return file(&path).map_err(|why| {
            Failure::new(ErrorCode::ModelNotFound, format!("no model at {}: {why}", path.display()))
                .hint("give the path of a GGUF file, or a name from `threadrunner models`")
        });
    }
    if is_gguf(Path::new(name))
        && let Ok(path) = file(&as_path(name, base))
    {
        return Ok(path);
    }
    let models = list_models(home)?;
    let in_models = models
        .iter()
        .find(|model| model.name == name || model.path.file_name().is_some_and(|f| f == name));
    if let Some(model) = in_models {
        return canonical(&model.path);
    }
    let is_named = |link: &&DanglingLink| {
        link.name == name || link.path.file_name().is_some_and(|file| file == name)
    };
    if let Some(link) = dangling_links(home).iter().find(is_named) {
        return Err(link.failure());
    }
    if let Some(target) = config.aliases.get(name) {
        // Aliases stand for files only: an alias of an alias would be confusing.
        let plain = Config { aliases: Default::default(), ..config.clone() };
        return by_name(home, &plain, target, &home.root).map_err(|failure| Failure {
            message: format!("the alias '{name}' in config.toml: {}", failure.message),
            ..failure
        });
    }
    if let Some(path) = by_name_of_file(&models, name)? {
        return Ok(path);
    }
    let names = models.iter().map(|model| &model.name).chain(config.aliases.keys());
    Err(Failure::new(
        ErrorCode::ModelNotFound,
        format!("no model is called '{name}' in {}", home.models_dir.display()),
    )
    .hint(suggestion(name, names)))
}

/// The file called `name` to which an entry of `models/` with another name is a link: a loaded model
/// is shown by the name of its file.
fn by_name_of_file(models: &[ModelFile], name: &str) -> Result<Option<PathBuf>, Failure> {
    let files = models.iter().filter_map(|model| file(&model.path).ok());
    let is_named =
        |path: &PathBuf| [path.file_stem(), path.file_name()].contains(&Some(name.as_ref()));
    let mut files: Vec<_> = files.filter(is_named).collect();
    files.sort();
    files.dedup();
    match (files.pop(), files.pop()) {
        (Some(second), Some(first)) => Err(Failure::new(
            ErrorCode::ModelNotFound,
            format!("'{name}' is both {} and {}", first.display(), second.display()),
        )
        .hint("name one of the links to them, from `threadrunner models`")),
        (only, _) => Ok(only),
    }
}

fn suggestion<'a>(name: &str, names: impl Iterator<Item = &'a String>) -> String {
    let wanted = name.to_lowercase();
    let mut near: Vec<_> = names
        .map(|known| {
            let lower = known.to_lowercase();
            let inside = wanted.len() > 2 && lower.contains(&wanted);
            let score = if inside { 1.0 } else { strsim::jaro_winkler(&wanted, &lower) };
            (score, known.as_str())
        })
        .filter(|(score, _)| *score > 0.75)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let near: Vec<_> = near.into_iter().take(3).map(|(_, known)| known).collect();
    if near.is_empty() {
        "`threadrunner models` lists the models; a path with a slash works too".to_owned()
    } else {
        format!("did you mean {}?", near.join(" or "))
    }
}

/// The absolute path of `path` if it is a file; otherwise why it cannot be used.
pub(crate) fn file(path: &Path) -> Result<PathBuf, String> {
    let metadata =
        fs::metadata(path).map_err(|error| match (fs::read_link(path), error.kind()) {
            (Ok(target), _) => leads_nowhere(&target, &error),
            (Err(_), io::ErrorKind::NotFound) => "there is no such file".to_owned(),
            (Err(_), _) => error.to_string(),
        })?;
    if metadata.is_dir() {
        return Err("it is a directory".to_owned());
    }
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    fs::canonicalize(path).map_err(|error| error.to_string())
}

fn leads_nowhere(target: &Path, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        _ => format!("cannot be used: {error}"),
    };
    format!("it is a link to {}, which {why}", target.display())
}

/// A link in `models/` that does not lead to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DanglingLink {
    /// The name that the model would have.
    pub name: String,
    /// The link.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl DanglingLink {
    pub(crate) fn failure(&self) -> Failure {
        Failure::new(
            ErrorCode::ModelNotFound,
            format!("no model at {}: {}", self.path.display(), self.why),
        )
        .hint("put the file back (is its disk mounted?), or remove the link")
    }
}

/// The links in the home's `models/` that would be models if their files existed, sorted by name.
pub fn dangling_links(home: &Home) -> Vec<DanglingLink> {
    if let Some(listed) = &home.listed {
        return listed.dangling.clone();
    }
    let entries = fs::read_dir(&home.models_dir).into_iter().flatten().flatten();
    let mut links: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.path();
            let name = path.file_stem()?.to_str()?.to_owned();
            let target = fs::read_link(&path).ok().filter(|_| is_gguf(&path))?;
            let why = leads_nowhere(&target, &fs::metadata(&path).err()?);
            Some(DanglingLink { name, path, why })
        })
        .collect();
    links.sort_by(|a, b| a.name.cmp(&b.name));
    links
}

pub(crate) fn canonical(path: &Path) -> Result<PathBuf, Failure> {
    file(path).map_err(|why| {
        Failure::new(ErrorCode::ModelNotFound, format!("no model at {}: {why}", path.display()))
    })
}
