//! Where everything is and what it is called: the environment, the home's paths, `config.toml`, and
//! the files behind model names.
//!
//! [`Home`] holds the paths, as the environment defines them. [`Config`] is the content of
//! `config.toml`, with [`WorkspaceSettings`] for one workspace and [`ModelConfig`] for one model.
//! [`resolve_model`] and [`resolve_draft`] turn names into files, and [`AskedModel`] does so for a
//! client, as it is sent to the daemon. [`FileLock`] is the lock by which a daemon is known to
//! live, and [`machine_number`] tells machines apart. The clients and the daemon share this crate,
//! so that all read these in the same way. A flag beats a variable, which beats `config.toml`,
//! which beats the default.
//!
//! The crate knows `core` and the file system: no socket of a daemon, no job on disk, and not what is
//! inside a model file. [`Home::engine_backend`] asks an engine's program what it was built with.
//!
//! `config/every_key.toml` is the text behind `config show` and docs/configuration.md; a test
//! compares its defaults with those of [`Config`]. Tests are in each module. They set no variables:
//! [`Home::resolve`] takes the environment as an argument.

mod amount;
mod asked_model;
mod config;
mod date;
mod default_model;
mod engine_backend;
mod file;
mod home;
mod lock;
mod machine;
mod memory_budget;
mod model;
mod model_config;
mod model_files;
mod private;
mod program;
mod retention;
mod runtime_dir;
mod sessions;
mod signals;
mod used_workspaces;
mod workspace_place;
mod workspaces;

pub use asked_model::{AskedModel, asked_draft};
pub use config::{Config, Durability, WorkspaceConfig};
pub use date::utc_date;
pub use default_model::{ChosenBy, choose_model, default_model, note_last_model, where_to_get_one};
pub use file::{Links, open_regular, read_regular, replace_file, unusable, write_own};
pub use home::Home;
pub use lock::FileLock;
pub use machine::machine_number;
pub use memory_budget::MemoryBudget;
pub use model::{resolve_backend, resolve_draft, resolve_model, resolve_workspace_model};
pub use model_config::ModelConfig;
pub use model_files::{DanglingLink, Listing, ModelFile, dangling_links, list_models};
pub use program::{find_engine, find_program};
pub use retention::RetentionConfig;
pub use runtime_dir::UnusedRuntimeDir;
pub use sessions::SessionsConfig;
pub use signals::{ignored_signals, interrupt_is_ignored};
pub use used_workspaces::{MOST_DIRECTORIES, apart};
pub use workspace_place::check_directory;
pub use workspaces::{WorkspaceSettings, no_such_workspace};
