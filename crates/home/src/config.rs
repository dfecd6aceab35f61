//! `config.toml`: its keys and their defaults, and how it is read and checked.

mod names;
mod once;
mod show;
mod strict;
mod wrong;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use threadrunner_core::engine_protocol::EngineOptions;
use threadrunner_core::open_enum::known_if_any;
use threadrunner_core::{
    BackendKind, ErrorCode, Failure, KeepAlive, Parameters, Priority, WorkspaceName,
};

pub(crate) use self::once::ReadOnce;
use self::strict::strict;
use self::wrong::{misread, unreadable, wrong};
use crate::{
    Home, Links, MemoryBudget, ModelConfig, RetentionConfig, SessionsConfig, amount, read_regular,
};

/// The largest configuration that is read, in bytes: a thousand times what anybody writes.
const MAX_BYTES: u64 = 1 << 20;

/// The maximum of `threads`: as many as the largest machines have processors.
const MOST_THREADS: u32 = 4096;

/// The user's configuration: `config.toml` in the home. The file and all its keys are optional. An
/// unknown key is an error, because a misspelt one would be ignored.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The default model: a name in `models/`, an alias, or a path (relative to the home).
    /// Default: the only file in `models/`, else the one used last.
    pub model: Option<String>,
    /// The default backend: `"llama"` or `"dummy"`. Default: llama if the engine has it.
    #[serde(deserialize_with = "known_if_any")]
    pub backend: Option<BackendKind>,
    /// How long a model stays loaded without a request. 0 unloads it as soon as its last request
    /// ends. Default: `"5m"`.
    pub idle_timeout: KeepAlive,
    /// How long an engine may load a model or answer without progress before it is killed. Default:
    /// `"5m"`.
    #[serde(deserialize_with = "amount::duration")]
    pub engine_timeout: Duration,
    /// How much memory all loaded models together may use. Default: `"70 %"` of what is free.
    pub memory_budget: MemoryBudget,
    /// How long running jobs may take to end when the daemon is stopped. Default: `"10s"`.
    #[serde(deserialize_with = "amount::duration")]
    pub grace: Duration,
    /// What an accepted job must survive before its client is told. Default: `"durable"`.
    pub durability: Durability,
    /// The maximum number of attempts for a job. Default: 3.
    pub max_attempts: u32,
    /// The maximum number of jobs in the queue. Default: 1000000; each takes some 330 bytes of
    /// memory.
    pub max_queue: u32,
    /// How long a hook may run, the program of a job that has ended. Default: `"60s"`.
    #[serde(deserialize_with = "amount::duration")]
    pub hook_timeout: Duration,
    /// The maximum number of hooks at once. Default: 4.
    pub max_hooks: u32,
    /// `[aliases]`: other names for models. Each stands for a name in `models/` or a path (relative
    /// to the home).
    pub aliases: BTreeMap<String, String>,
    /// `[engine]`: limits and tuning of every engine.
    #[serde(deserialize_with = "strict")]
    pub engine: EngineOptions,
    /// `[models.NAME]`: settings for a single model.
    pub models: BTreeMap<String, ModelConfig>,
    /// `[defaults]`: generation parameters for requests that do not set them.
    #[serde(deserialize_with = "strict")]
    pub defaults: Parameters,
    /// `[retention]`: which ended jobs to keep, in each workspace.
    pub retention: RetentionConfig,
    /// `[sessions]`: what to keep of conversations besides their text.
    pub sessions: SessionsConfig,
    /// `[workspaces.NAME]`: additional workspaces.
    pub workspaces: BTreeMap<WorkspaceName, WorkspaceConfig>,
}

/// What an accepted job must survive before its client is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// A power failure.
    #[default]
    Durable,
    /// A crash of the daemon. A power failure may lose the last few seconds.
    Relaxed,
}

/// An additional workspace.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkspaceConfig {
    /// Its directory, relative to the home; `~/` is the user's home. Default: `workspaces/NAME`.
    pub path: Option<PathBuf>,
    /// Its default model. Default: the general one.
    pub model: Option<String>,
    /// Instructions for jobs without any.
    pub system: Option<String>,
    /// The priority of jobs that do not set one.
    #[serde(deserialize_with = "known_if_any")]
    pub priority: Option<Priority>,
    /// The maximum number of attempts for a job. Default: the general one.
    pub max_attempts: Option<u32>,
    /// Which of its ended jobs to keep. Default: as in `[retention]`.
    pub retention: Option<RetentionConfig>,
    /// Its default generation parameters, which take precedence over the general ones.
    #[serde(deserialize_with = "strict")]
    pub defaults: Parameters,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: None,
            backend: None,
            idle_timeout: KeepAlive::For(Duration::from_secs(300)),
            engine_timeout: Duration::from_secs(300),
            memory_budget: MemoryBudget::default(),
            grace: Duration::from_secs(10),
            durability: Durability::default(),
            max_attempts: 3,
            max_queue: 1_000_000,
            hook_timeout: Duration::from_secs(60),
            max_hooks: 4,
            aliases: BTreeMap::new(),
            engine: EngineOptions::default(),
            models: BTreeMap::new(),
            defaults: Parameters::default(),
            retention: RetentionConfig::default(),
            sessions: SessionsConfig::default(),
            workspaces: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads the home's `config.toml`; the defaults if there is none.
    ///
    /// # Errors
    /// [`ErrorCode::Config`] names the file, the line and the mistake; [`ErrorCode::Io`] when the
    /// file cannot be read.
    pub fn load(home: &Home) -> Result<Self, Failure> {
        match Self::text(home)? {
            Some(text) => Self::read(&text, home),
            None => Ok(Self::default()),
        }
    }

    /// The text of the home's `config.toml`; `None` if there is none.
    ///
    /// # Errors
    /// [`ErrorCode::Config`] or [`ErrorCode::Io`] when it cannot be read.
    pub fn text(home: &Home) -> Result<Option<String>, Failure> {
        let path = &home.config_file;
        let bytes = match read_regular(path, MAX_BYTES, Links::Followed) {
            Ok(bytes) => bytes,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::NotFound if path.is_symlink() => {
                        Err(unreadable(path, "it is a link to a file that does not exist"))
                    }
                    // If the home itself cannot exist, creating it reports that.
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
                    io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge => {
                        Err(unreadable(path, &error.to_string()))
                    }
                    _ => Err(Failure::new(
                        ErrorCode::Io,
                        format!("cannot read {}: {error}", path.display()),
                    )),
                };
            }
        };
        let text =
            String::from_utf8(bytes).map_err(|_| unreadable(path, "the file is not UTF-8"))?;
        Ok(Some(text))
    }

    /// Returns the text of `config.toml` with which the daemon last started; `None` if that is not
    /// known.
    pub fn running_text(home: &Home) -> Option<String> {
        let bytes = read_regular(&home.running_config(), MAX_BYTES, Links::Refused).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// Reads `text` as the content of the home's `config.toml`, whether or not it is saved there
    /// yet.
    ///
    /// # Errors
    /// [`ErrorCode::Config`], as [`Config::load`].
    pub fn read(text: &str, home: &Home) -> Result<Self, Failure> {
        let path = &home.config_file;
        let config = Self::parse(text, path)?;
        config.check_workspace_places(home).map_err(|message| wrong(path, &message))?;
        Ok(config)
    }

    /// Reads `text` as the content of the file `path`. Does not check where the workspaces are.
    ///
    /// # Errors
    /// [`ErrorCode::Config`], as [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, Failure> {
        let config: Self = toml::from_str(text).map_err(|error| misread(path, text, &error))?;
        config.check().map_err(|message| wrong(path, &message))?;
        Ok(config)
    }

    /// The keys whose values differ in `other`.
    pub fn changes(&self, other: &Self) -> Vec<&'static str> {
        // Destructured, so that no key can be forgotten.
        let Self {
            model,
            backend,
            idle_timeout,
            engine_timeout,
            memory_budget,
            grace,
            durability,
            max_attempts,
            max_queue,
            hook_timeout,
            max_hooks,
            aliases,
            engine,
            models,
            defaults,
            retention,
            sessions,
            workspaces,
        } = self;
        let same = [
            ("model", *model == other.model),
            ("backend", *backend == other.backend),
            ("idle_timeout", *idle_timeout == other.idle_timeout),
            ("engine_timeout", *engine_timeout == other.engine_timeout),
            ("memory_budget", *memory_budget == other.memory_budget),
            ("grace", *grace == other.grace),
            ("durability", *durability == other.durability),
            ("max_attempts", *max_attempts == other.max_attempts),
            ("max_queue", *max_queue == other.max_queue),
            ("hook_timeout", *hook_timeout == other.hook_timeout),
            ("max_hooks", *max_hooks == other.max_hooks),
            ("aliases", *aliases == other.aliases),
            ("engine", *engine == other.engine),
            ("models", *models == other.models),
            ("defaults", *defaults == other.defaults),
            ("retention", *retention == other.retention),
            ("sessions", *sessions == other.sessions),
            ("workspaces", *workspaces == other.workspaces),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
    }

    fn check(&self) -> Result<(), String> {
        if self.engine_timeout.is_zero() {
            return Err("engine_timeout is 0, but an engine needs some time to answer".to_owned());
        }
        if self.max_attempts == 0 {
            return Err("max_attempts is 0, but a job needs at least one attempt".to_owned());
        }
        if self.max_queue == 0 {
            return Err("max_queue is 0, so no job could be accepted".to_owned());
        }
        if self.max_hooks == 0 {
            return Err("max_hooks is 0, so no --on-done program could run".to_owned());
        }
        let engine = &self.engine;
        check_engine("engine", engine.context, engine.sequences)?;
        for (name, value) in [("batch", engine.batch), ("threads", engine.threads)] {
            above_zero("engine", name, value)?;
        }
        if let Some(threads) = engine.threads.filter(|threads| *threads > MOST_THREADS) {
            return Err(format!(
                "[engine]: threads is {threads}, but must be at most {MOST_THREADS}"
            ));
        }
        check_retention("retention", &self.retention)?;
        for (name, model) in &self.models {
            check_engine(&format!("models.{name}"), model.context, model.sequences)?;
        }
        self.defaults.validate().map_err(|error| format!("[defaults]: {error}"))?;
        self.check_workspace_names()?;
        for (name, workspace) in &self.workspaces {
            if workspace.path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
                return Err(format!("[workspaces.{name}]: path is empty"));
            }
            if let Some(retention) = &workspace.retention {
                check_retention(&format!("workspaces.{name}.retention"), retention)?;
            }
            if workspace.max_attempts == Some(0) {
                return Err(format!("[workspaces.{name}]: max_attempts is 0"));
            }
            workspace
                .defaults
                .validate()
                .map_err(|error| format!("[workspaces.{name}.defaults]: {error}"))?;
        }
        Ok(())
    }
}

/// Expands a path in `config.toml`: `~/` is the user's home, and a relative one is relative to
/// `root`.
pub(crate) fn expand(path: &Path, root: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(user)) => user.join(rest),
        _ => root.join(path),
    }
}

fn check_engine(table: &str, context: Option<u32>, sequences: Option<u32>) -> Result<(), String> {
    above_zero(table, "context", context)?;
    above_zero(table, "sequences", sequences)
}

/// Refuses an age of 0, which would remove every job as soon as it has ended.
fn check_retention(table: &str, retention: &RetentionConfig) -> Result<(), String> {
    match retention.max_age {
        Some(Duration::ZERO) => Err(format!(
            "[{table}]: max_age is 0, so every job would be removed once it has ended; \
             `threadrunner prune` removes jobs once"
        )),
        _ => Ok(()),
    }
}

/// Refuses 0: a key that is left to the engine is omitted instead.
fn above_zero(table: &str, key: &str, value: Option<u32>) -> Result<(), String> {
    match value {
        Some(0) => Err(format!("[{table}]: {key} is 0, but must be at least 1")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
