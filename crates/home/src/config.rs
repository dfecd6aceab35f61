//! `config.toml`: its keys and their defaults, and how it is read and checked.

mod names;
mod show;
mod wrong;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use threadrunner_core::engine_protocol::{DummyScript, EngineOptions};
use threadrunner_core::open_enum::known_if_any;
use threadrunner_core::{BackendKind, ErrorCode, Failure, KeepAlive, Parameters, Priority};

use self::wrong::{misread, wrong};
use crate::{
    Home, Links, MemoryBudget, ModelConfig, RetentionConfig, SessionsConfig, amount, read_regular,
};

/// The largest configuration that is read, in bytes: a thousand times what anybody writes.
const MAX_BYTES: u64 = 1 << 20;

/// The user's configuration: `config.toml` in the home. The file and all its keys are optional. An
/// unknown key is an error, because a misspelt one would be ignored.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The default model: a name in `models/`, an alias, or a path (relative to the home).
    /// Default: the only file in `models/`, else the one used last.
    pub model: Option<String>,
    /// The default backend: `"llama"` or `"dummy"`. Default: llama if it is compiled in.
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
    #[serde(deserialize_with = "engine_options")]
    pub engine: EngineOptions,
    /// `[models.NAME]`: settings for a single model.
    pub models: BTreeMap<String, ModelConfig>,
    /// `[defaults]`: generation parameters for requests that do not set them.
    #[serde(deserialize_with = "parameters")]
    pub defaults: Parameters,
    /// `[retention]`: which ended jobs to keep, in each workspace.
    pub retention: RetentionConfig,
    /// `[sessions]`: what to keep of conversations besides their text.
    pub sessions: SessionsConfig,
    /// `[workspaces.NAME]`: additional workspaces.
    pub workspaces: BTreeMap<String, WorkspaceConfig>,
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
    #[serde(deserialize_with = "parameters")]
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
                        Err(wrong(path, "it is a link to a file that does not exist"))
                    }
                    // If the home itself cannot exist, creating it reports that.
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
                    io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge => {
                        Err(wrong(path, &error.to_string()))
                    }
                    _ => Err(Failure::new(
                        ErrorCode::Io,
                        format!("cannot read {}: {error}", path.display()),
                    )),
                };
            }
        };
        let text = String::from_utf8(bytes).map_err(|_| wrong(path, "the file is not UTF-8"))?;
        Ok(Some(text))
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
        for (name, model) in &self.models {
            check_engine(&format!("models.{name}"), model.context, model.sequences)?;
        }
        self.defaults.validate().map_err(|error| format!("[defaults]: {error}"))?;
        self.check_workspace_names()?;
        for (name, workspace) in &self.workspaces {
            if workspace.path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
                return Err(format!("[workspaces.{name}]: path is empty"));
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

/// Refuses 0: a key that is left to the engine is omitted instead.
fn above_zero(table: &str, key: &str, value: Option<u32>) -> Result<(), String> {
    match value {
        Some(0) => Err(format!("[{table}]: {key} is 0, but must be at least 1")),
        _ => Ok(()),
    }
}

/// [`EngineOptions`] that refuse unknown keys. A file written by hand should refuse them, and a
/// wire format that grows should not. `remote` makes the compiler compare the two.
#[derive(Deserialize)]
#[serde(remote = "EngineOptions", deny_unknown_fields)]
struct StrictEngineOptions {
    #[serde(default)]
    context: Option<u32>,
    #[serde(default)]
    sequences: Option<u32>,
    #[serde(default)]
    batch: Option<u32>,
    #[serde(default)]
    threads: Option<u32>,
    #[serde(default)]
    prefix_cache: Option<bool>,
    #[serde(default)]
    speculation: Option<bool>,
    #[serde(default)]
    speculation_greedy: Option<bool>,
    #[serde(default)]
    deterministic: Option<bool>,
    #[serde(default)]
    gpu_layers: Option<u32>,
    #[serde(default)]
    dummy: Option<DummyScript>,
}

fn engine_options<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EngineOptions, D::Error> {
    StrictEngineOptions::deserialize(deserializer)
}

/// [`Parameters`] that refuse unknown keys; see [`StrictEngineOptions`].
#[derive(Deserialize)]
#[serde(remote = "Parameters", deny_unknown_fields)]
struct StrictParameters {
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    temperature: Option<f32>,
    #[serde(default)]
    top_k: Option<u32>,
    #[serde(default)]
    top_p: Option<f32>,
    #[serde(default)]
    min_p: Option<f32>,
    #[serde(default)]
    repeat_penalty: Option<f32>,
    #[serde(default)]
    repeat_limit: Option<u32>,
    #[serde(default)]
    seed: Option<u32>,
    #[serde(default)]
    stop: Vec<String>,
}

fn parameters<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Parameters, D::Error> {
    StrictParameters::deserialize(deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Failure> {
        Config::parse(text, Path::new("/h/config.toml"))
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            r#"
            model = "small"
            backend = "llama"
            idle_timeout = 0
            engine_timeout = 60
            memory_budget = "8 GB"
            grace = 2.5
            durability = "relaxed"
            max_attempts = 5
            max_queue = 10
            hook_timeout = "5s"
            max_hooks = 2

            [aliases]
            small = "SmolLM2.gguf"

            [engine]
            context = 4096
            sequences = 4
            batch = 512
            threads = 2
            prefix_cache = false
            speculation = true
            speculation_greedy = true
            deterministic = false
            gpu_layers = 99
            dummy = { step_ms = 5 }

            [models.small]
            keep_alive = "forever"
            pin = true
            context = 2048
            sequences = 2
            draft = "tiny"

            [defaults]
            temperature = 0.2
            stop = ["END"]

            [retention]
            max_age = "7d"
            max_jobs = 10000
            max_bytes = "10 GB"
            keep_failed = true

            [sessions]
            state_bytes = "500 MB"

            [workspaces.code]
            path = "code"
            model = "coder"
            defaults = { top_k = 1 }
            "#,
        )
        .unwrap();
        assert_eq!(config.model.as_deref(), Some("small"));
        assert_eq!(config.idle_timeout, KeepAlive::For(Duration::ZERO));
        assert_eq!(config.engine_timeout, Duration::from_secs(60));
        assert_eq!(config.grace, Duration::from_millis(2500));
        assert_eq!(config.durability, Durability::Relaxed);
        assert_eq!((config.hook_timeout.as_secs(), config.max_hooks), (5, 2));
        assert_eq!(config.aliases["small"], "SmolLM2.gguf");
        assert_eq!(config.engine.context, Some(4096));
        assert_eq!(config.engine.prefix_cache, Some(false));
        assert_eq!(config.engine.speculation_greedy, Some(true));
        assert_eq!(config.engine.deterministic, Some(false));
        assert_eq!(config.engine.dummy.unwrap().step_ms, 5);
        assert_eq!(config.memory_budget, MemoryBudget::Bytes(8_000_000_000));
        let small = &config.models["small"];
        assert!(small.pin && small.keep_alive == Some(threadrunner_core::KeepAlive::Forever));
        assert_eq!((small.context, small.sequences), (Some(2048), Some(2)));
        assert_eq!(small.draft.as_deref(), Some("tiny"));
        assert_eq!(config.defaults.temperature, Some(0.2));
        assert_eq!(config.retention.max_jobs, Some(10_000));
        assert_eq!(config.sessions.state_bytes, 500_000_000);
        assert_eq!(config.workspaces["code"].defaults.top_k, Some(1));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_file_and_line() {
        for (text, line, words) in [
            ("modle = \"x\"", "line 1", "modle"),
            ("model = \"x\"\n\ntypo = 1\n", "line 3", "typo"),
            ("[engine]\ncontxt = 1\n", "line 2", "contxt"),
            ("[defaults]\n\ntemprature = 1\n", "line 3", "temprature"),
            ("[workspaces.a]\npath = \"p\"\nmodl = \"m\"\n", "line 3", "modl"),
            ("model = \"x\"\nmax_queue = \"many\"\n", "line 2", "invalid type"),
            ("idle_timeout = -1\n", "line 1", "-1"),
            ("model =\n", "line 1", ""),
        ] {
            let failure = parse(text).unwrap_err();
            assert_eq!(failure.code, ErrorCode::Config);
            let message = &failure.message;
            assert!(message.starts_with(&format!("/h/config.toml, {line}: ")), "{message}");
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn a_duration_is_written_alike_everywhere() {
        let config = parse(
            "idle_timeout = \"5m\"\ngrace = \"5m\"\nhook_timeout = \"5m\"\n\
             [models.x]\nkeep_alive = \"5m\"\n[retention]\nmax_age = \"5m\"\n",
        )
        .unwrap();
        let five = Duration::from_secs(300);
        assert_eq!((config.grace, config.hook_timeout), (five, five));
        assert_eq!(config.idle_timeout, KeepAlive::For(five));
        assert_eq!(config.models["x"].keep_alive, Some(KeepAlive::For(five)));
        assert_eq!(config.retention.max_age, Some(five));
        assert_eq!(parse("idle_timeout = \"forever\"").unwrap().idle_timeout, KeepAlive::Forever);
    }

    #[test]
    fn what_differs_is_named_by_its_key() {
        let (old, new) = (parse("").unwrap(), parse("# a comment\ngrace = 10\n").unwrap());
        assert_eq!(old.changes(&new), [] as [&str; 0]);
        let new = parse("grace = 1\nmodel = \"m\"\n[engine]\nthreads = 1\n").unwrap();
        assert_eq!(old.changes(&new), ["model", "grace", "engine"]);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (text, words) in [
            ("engine_timeout = 0", "engine_timeout"),
            ("max_attempts = 0", "max_attempts"),
            ("max_queue = 0", "max_queue"),
            ("max_hooks = 0", "max_hooks"),
            ("[engine]\nthreads = 0", "[engine]: threads is 0"),
            ("[models.x]\ncontext = 0", "[models.x]: context is 0"),
            ("[defaults]\ntop_p = 3.0", "top_p"),
            ("[workspaces.a]\npath = \"\"", "[workspaces.a]"),
            ("[workspaces.a]\npath = \"p\"\ndefaults = { max_tokens = 0 }", "max_tokens"),
        ] {
            let failure = parse(text).unwrap_err();
            assert!(failure.message.contains(words), "{failure}");
        }
    }

    #[test]
    fn paths_are_relative_to_the_home() {
        assert_eq!(expand(Path::new("code"), Path::new("/h")), Path::new("/h/code"));
        assert_eq!(expand(Path::new("/code"), Path::new("/h")), Path::new("/code"));
        let user = std::env::home_dir().unwrap();
        assert_eq!(expand(Path::new("~/code"), Path::new("/h")), user.join("code"));
    }
}
