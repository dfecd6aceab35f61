//! [`Home`]: the home directory and the paths in it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use threadrunner_core::open_enum::parse;
use threadrunner_core::{BackendKind, ErrorCode, Failure, WorkspaceName};

use crate::Listing;
use crate::config::ReadOnce;
use crate::private::{ensure_closed, ensure_dir, ensure_private};
use crate::runtime_dir::{self, OWN_DIR, UnusedRuntimeDir};

/// The longest path of a Unix socket, in bytes: `sockaddr_un` has 108, the last one for a zero.
const MAX_SOCKET_PATH: usize = 107;

/// Every path of one user's ThreadRunner, and whatever else the environment decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// `THREADRUNNER_HOME`, else `~/.threadrunner`.
    pub root: PathBuf,
    /// `config.toml`; it need not exist.
    pub config_file: PathBuf,
    /// The directory in which model names are looked up.
    pub models_dir: PathBuf,
    /// The job workspace: `THREADRUNNER_WORKSPACE`, else `workspace/`.
    pub workspace: PathBuf,
    /// Logs, saved state of sessions, and what else can be lost.
    pub cache_dir: PathBuf,
    /// Locks, and by default the socket.
    pub run_dir: PathBuf,
    /// The daemon's socket: `THREADRUNNER_SOCKET`; else `run/daemon.sock` if `THREADRUNNER_HOME` is
    /// set, because two homes must not share a daemon; else
    /// `$XDG_RUNTIME_DIR/threadrunner/daemon.sock`; else `run/daemon.sock`.
    pub socket: PathBuf,
    /// The runtime directory, if it cannot hold the socket.
    pub unused_runtime_dir: Option<UnusedRuntimeDir>,
    /// `THREADRUNNER_BACKEND`.
    pub backend: Option<BackendKind>,
    /// `THREADRUNNER_MODEL_PATH`.
    pub model_path: Option<PathBuf>,
    /// The answer of [`Home::engine_backend`].
    pub(crate) engine_backend: OnceLock<BackendKind>,
    /// The content of `models/` if it was listed before. Else each function that needs it lists it.
    pub listed: Option<Arc<Listing>>,
    /// What was read of `config.toml`.
    pub(crate) read: ReadOnce,
    /// Whether the user chose the directories of the workspace and the socket, and with them their
    /// permissions.
    chosen_workspace: bool,
    chosen_socket: bool,
}

impl Home {
    /// The home that the environment of this process describes.
    ///
    /// # Errors
    /// See [`Home::resolve`].
    pub fn from_env() -> Result<Self, Failure> {
        let here = env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        Self::resolve(&here, |name| env::var_os(name))?.without_unfit_runtime_dir(&here)
    }

    /// The same, with the socket in the home if the runtime directory cannot hold it.
    fn without_unfit_runtime_dir(self, here: &Path) -> Result<Self, Failure> {
        if !self.uses_runtime_dir() {
            return Ok(self);
        }
        let Some(path) = self.socket.parent().and_then(Path::parent) else { return Ok(self) };
        let Some(why) = runtime_dir::unfit(path) else { return Ok(self) };
        let unused = UnusedRuntimeDir { path: path.to_owned(), why };
        let others = |name: &str| env::var_os(name).filter(|_| name != "XDG_RUNTIME_DIR");
        Ok(Self { unused_runtime_dir: Some(unused), ..Self::resolve(here, others)? })
    }

    fn uses_runtime_dir(&self) -> bool {
        !self.chosen_socket && self.socket.parent() != Some(self.run_dir.as_path())
    }

    /// The same home, whose `models/` was listed before.
    #[must_use]
    pub fn with_listing(&self, listed: Option<Arc<Listing>>) -> Self {
        Self { listed, ..self.clone() }
    }

    /// Like [`Home::from_env`], with the socket at this path, as if `THREADRUNNER_SOCKET` named it.
    ///
    /// # Errors
    /// See [`Home::resolve`].
    pub fn from_env_with_socket(socket: &Path) -> Result<Self, Failure> {
        let here = env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        Self::resolve(&here, |name| match name {
            "THREADRUNNER_SOCKET" => Some(socket.as_os_str().to_owned()),
            _ => env::var_os(name),
        })
    }

    /// The home that `variable` describes. Relative paths are relative to `here`. Reads no file. An
    /// empty variable counts as unset.
    ///
    /// # Errors
    /// [`ErrorCode::Config`] when the home is unknown, the socket's path is too long, or a variable
    /// has a value that it cannot have.
    pub fn resolve(
        here: &Path,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Failure> {
        let text = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| text(name).map(|value| here.join(value));
        let chosen_root = path("THREADRUNNER_HOME");
        let root = match (&chosen_root, path("HOME")) {
            (Some(root), _) => root.clone(),
            (None, Some(home)) => home.join(".threadrunner"),
            (None, None) => {
                return Err(Failure::new(
                    ErrorCode::Config,
                    "neither THREADRUNNER_HOME nor HOME is set",
                )
                .hint("set THREADRUNNER_HOME to a directory of your own"));
            }
        };
        let run_dir = root.join("run");
        let chosen_socket = path("THREADRUNNER_SOCKET");
        let runtime_dir = text("XDG_RUNTIME_DIR").map(PathBuf::from);
        let mut unused_runtime_dir = None;
        let socket = match (&chosen_socket, &chosen_root, runtime_dir) {
            (Some(socket), _, _) => socket.clone(),
            (None, None, Some(path)) => {
                let socket = path.join(OWN_DIR).join("daemon.sock");
                match unusable_as_socket(&socket) {
                    None => socket,
                    Some(why) => {
                        unused_runtime_dir = Some(UnusedRuntimeDir { path, why });
                        run_dir.join("daemon.sock")
                    }
                }
            }
            (None, _, _) => run_dir.join("daemon.sock"),
        };
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(Failure::new(
                ErrorCode::Config,
                format!(
                    "the socket's path is {} bytes long, but the system allows {MAX_SOCKET_PATH}: {}",
                    socket.as_os_str().len(),
                    socket.display()
                ),
            )
            .hint("set THREADRUNNER_SOCKET to a shorter path, such as /tmp/threadrunner-$USER/daemon.sock"));
        }
        let chosen_workspace = path("THREADRUNNER_WORKSPACE");
        Ok(Self {
            config_file: root.join("config.toml"),
            models_dir: root.join("models"),
            chosen_workspace: chosen_workspace.is_some(),
            workspace: chosen_workspace.unwrap_or_else(|| root.join("workspace")),
            cache_dir: root.join("cache"),
            run_dir,
            chosen_socket: chosen_socket.is_some(),
            socket,
            unused_runtime_dir,
            backend: text("THREADRUNNER_BACKEND").as_deref().map(backend).transpose()?,
            model_path: path("THREADRUNNER_MODEL_PATH"),
            engine_backend: OnceLock::new(),
            listed: None,
            read: ReadOnce::default(),
            root,
        })
    }

    /// Creates the missing directories, each with mode 0700.
    ///
    /// Closes a directory of this user that is open to others, if it holds nothing but
    /// ThreadRunner's own files. Leaves the permissions of a workspace or socket directory alone if
    /// the user chose it.
    ///
    /// # Errors
    /// A directory cannot be created or closed, belongs to another user, or its name is taken by
    /// something else.
    pub fn create(&self) -> Result<(), Failure> {
        const OURS: [&str; 6] =
            ["config.toml", "models", "workspace", "workspaces", "cache", "run"];
        ensure_private(&self.root, |name| OURS.contains(&name))?;
        // Nobody else may change the locks and the socket.
        match self.run_dir.is_symlink() {
            true => ensure_closed(&self.run_dir)?,
            false => ensure_private(&self.run_dir, |_| true)?,
        }
        // Other programs' files next to the models and the logs do not make these directories less
        // ours.
        for dir in [&self.cache_dir, &self.models_dir] {
            // A link to a bigger disk may lead to a directory that others use.
            if dir.is_symlink() {
                ensure_dir(dir)?;
            } else {
                ensure_private(dir, |_| true)?;
            }
        }
        if self.chosen_workspace || self.workspace.is_symlink() {
            ensure_dir(&self.workspace)?;
        } else {
            ensure_private(&self.workspace, |_| true)?;
        }
        match self.socket.parent() {
            Some(dir) if self.chosen_socket => {
                ensure_dir(dir)?;
            }
            Some(dir) if self.uses_runtime_dir() => runtime_dir::ensure(dir)?,
            _ => {}
        }
        Ok(())
    }

    /// The workspace that `THREADRUNNER_WORKSPACE` names, to send to a daemon that may have been
    /// started with another one.
    pub fn asked_workspace(&self) -> Option<WorkspaceName> {
        let asked = self.chosen_workspace.then_some(&self.workspace);
        asked.and_then(|path| path.to_str()).map(WorkspaceName::from)
    }

    /// The daemon's log of a day, given as `YYYY-MM-DD` (see [`crate::utc_date`]).
    pub fn log_file(&self, date: &str) -> PathBuf {
        self.cache_dir.join(format!("threadrunner-daemon-{date}.log"))
    }

    /// The newest log, if there is one.
    pub fn newest_log(&self) -> Option<PathBuf> {
        let entries = std::fs::read_dir(&self.cache_dir).ok()?;
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("threadrunner-daemon-") && name.ends_with(".log")
            })
            // The names contain dates, so sorting by name sorts by time.
            .max()
    }

    /// A copy of the `config.toml` that the daemon started with.
    pub fn running_config(&self) -> PathBuf {
        self.run_dir.join("config.toml")
    }

    /// The list of directories that became workspaces by being used, one path per line.
    pub fn used_directories(&self) -> PathBuf {
        self.run_dir.join("workspaces")
    }

    /// The random number of this home ([`crate::machine_number`]).
    pub fn machine_file(&self) -> PathBuf {
        self.run_dir.join("machine")
    }

    /// The lock that the daemon holds while it runs.
    pub fn daemon_lock(&self) -> PathBuf {
        self.run_dir.join("daemon.lock")
    }

    /// The lock that a client holds while it starts the daemon.
    pub fn spawn_lock(&self) -> PathBuf {
        self.run_dir.join("spawn.lock")
    }
}

/// Why a path in the runtime directory cannot be the socket's, in words that follow that
/// directory's path.
fn unusable_as_socket(socket: &Path) -> Option<String> {
    let length = socket.as_os_str().len();
    if socket.is_relative() {
        // The XDG specification says to ignore it.
        Some("is not an absolute path".to_owned())
    } else if length > MAX_SOCKET_PATH {
        Some(format!(
            "is too long: the socket's path would have {length} bytes, but the system allows \
             {MAX_SOCKET_PATH}"
        ))
    } else {
        None
    }
}

fn backend(text: &OsStr) -> Result<BackendKind, Failure> {
    text.to_str().and_then(parse).ok_or_else(|| {
        let text = text.to_string_lossy();
        let message = format!("THREADRUNNER_BACKEND is '{text}', but must be llama or dummy");
        Failure::new(ErrorCode::Config, message).hint("unset it for the default")
    })
}

#[cfg(test)]
mod tests;
