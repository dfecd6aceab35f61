//! Checks of the home, the socket, the daemon and the models.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::fs::Access;
use rustix::process::{Pid, getpriority_process};
use threadrunner_core::protocol::{WorkspaceStatus, ask};
use threadrunner_core::{BackendKind, ErrorCode};
use threadrunner_home::{
    Config, FileLock, Home, dangling_links, find_program, list_models, resolve_backend,
    resolve_model,
};
use tokio::time::timeout;

use super::{Finding, failure};
use crate::config_changes::stale_keys;
use crate::error::CommandError;
use crate::format;
use crate::session::Session;

/// How soon a healthy daemon answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Less free space than this many bytes is a warning.
const LITTLE_ROOM: u64 = 500_000_000;

/// Checks that the directories exist, belong to the user, and are closed to others.
pub(super) fn home(home: &Home) -> Vec<Finding> {
    if !home.root.exists() {
        // Creating it creates its parents too: check the first that exists.
        let parent = home.root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        if let Err(error) = rustix::fs::access(parent, Access::WRITE_OK | Access::EXEC_OK) {
            let message = format!(
                "{} does not exist, and cannot be created in {}: {error}",
                home.root.display(),
                parent.display()
            );
            let mend = "set THREADRUNNER_HOME to a directory of your own";
            return vec![Finding::broken("home", failure(ErrorCode::Config, message, mend))];
        }
        let detail = format!("{}, which the first prompt will create", home.root.display());
        return vec![Finding::fine("home", detail)];
    }
    [
        ("home", &home.root, Use::Written),
        ("models directory", &home.models_dir, Use::Read),
        ("workspace", &home.workspace, Use::Written),
        ("logs", &home.cache_dir, Use::Written),
        ("run directory", &home.run_dir, Use::Written),
    ]
    .into_iter()
    .filter(|(name, path, _)| *name == "home" || path.exists())
    .map(|(name, path, used)| directory(name, path, used))
    .collect()
}

/// How a directory is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Written,
}

/// Creates a file and removes it. The mode alone does not tell whether that works: the file system
/// may be mounted read-only or out of inodes, or the user over quota.
fn try_to_write(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!(".doctor-{}", std::process::id()));
    File::create_new(&path)?;
    fs::remove_file(&path)
}

fn directory(name: &'static str, path: &Path, used: Use) -> Finding {
    let shown = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            let message = format!("cannot inspect {shown}: {error}");
            return Finding::broken(
                name,
                failure(ErrorCode::Config, message, format!("ls -ld {shown}")),
            );
        }
    };
    let uid = rustix::process::geteuid().as_raw();
    let mode = metadata.permissions().mode() & 0o777;
    if !metadata.is_dir() {
        let message = format!("{shown} is not a directory");
        Finding::broken(name, failure(ErrorCode::Config, message, "move it away"))
    } else if metadata.uid() != uid {
        let message = format!("{shown} belongs to user {}, not to you ({uid})", metadata.uid());
        let mend = "run as its owner, or set THREADRUNNER_HOME to a directory of your own";
        Finding::broken(name, failure(ErrorCode::Config, message, mend))
    } else if mode & 0o700 != 0o700 {
        let message = format!("{shown} has mode {mode:03o}: you cannot use it");
        Finding::broken(name, failure(ErrorCode::Config, message, format!("chmod 700 {shown}")))
    } else if mode & 0o077 != 0 {
        let detail = format!("{shown} has mode {mode:03o}: other users have access");
        Finding::warning(name, detail, format!("chmod 700 {shown}"))
    } else if used == Use::Written
        && let Err(error) = try_to_write(path)
    {
        let message = format!("{shown} cannot be written: {error}");
        let mend = "free some space, mount it read-write, or set THREADRUNNER_HOME elsewhere";
        Finding::broken(name, failure(ErrorCode::Config, message, mend))
    } else {
        Finding::fine(name, shown.to_string())
    }
}

/// Reports where a valid configuration was read from.
pub(super) fn config(home: &Home) -> Finding {
    let shown = home.config_file.display();
    match home.config_file.exists() {
        true => Finding::fine("config.toml", shown.to_string()),
        false => Finding::fine("config.toml", format!("{shown} does not exist: defaults")),
    }
}

/// Reports keys that have changed since the running daemon read them.
pub(super) fn config_changes(home: &Home) -> Option<Finding> {
    let changed = stale_keys(home);
    let runs = !changed.is_empty() && UnixStream::connect(&home.socket).is_ok();
    runs.then(|| {
        let detail = format!("it has changed since the daemon started: {}", changed.join(", "));
        Finding::warning("config.toml", detail, "threadrunner daemon restart")
    })
}

/// Checks the directories of all workspaces but the default one, if they exist.
pub(super) fn workspaces(home: &Home, config: &Config) -> Vec<Finding> {
    let all = config.workspaces(home).into_iter().skip(1);
    all.filter(|workspace| workspace.path.exists())
        .map(|workspace| directory("workspace", &workspace.path, Use::Written))
        .collect()
}

/// Reports a runtime directory that cannot hold the socket.
pub(super) fn runtime_directory(home: &Home) -> Option<Finding> {
    let unused = home.unused_runtime_dir.as_ref()?;
    let (path, why) = (unused.path.display(), &unused.why);
    let detail = format!("XDG_RUNTIME_DIR is not used: {path} {why}; the socket is in the home");
    let mend = "unset XDG_RUNTIME_DIR, or set it to a directory of your own";
    Some(Finding::warning("runtime directory", detail, mend))
}

/// Checks what is at the path of the socket.
pub(super) fn socket(home: &Home) -> Finding {
    let shown = home.socket.display();
    let Ok(metadata) = fs::symlink_metadata(&home.socket) else {
        return match home.socket.parent() {
            // The system creates the runtime directory, and removes it after the session.
            Some(dir) if dir.exists() || home.socket.starts_with(&home.root) => {
                Finding::fine("socket", format!("{shown} (nothing is listening)"))
            }
            Some(dir) if dir.parent().is_some_and(Path::is_dir) => {
                Finding::fine("socket", format!("{shown} (nothing is listening)"))
            }
            _ => Finding::broken(
                "socket",
                failure(
                    ErrorCode::DaemonUnavailable,
                    format!("cannot create {shown}: its directory is missing"),
                    "check XDG_RUNTIME_DIR, or set THREADRUNNER_SOCKET to another path",
                ),
            ),
        };
    };
    let mode = metadata.permissions().mode() & 0o777;
    if !metadata.file_type().is_socket() {
        let message = format!("{shown} is not a socket");
        Finding::broken("socket", failure(ErrorCode::DaemonUnavailable, message, "move it away"))
    } else if mode & 0o077 != 0 {
        let detail = format!("{shown} has mode {mode:03o}: other users can connect");
        Finding::warning("socket", detail, format!("chmod 600 {shown}"))
    } else {
        Finding::fine("socket", shown.to_string())
    }
}

/// Checks the free space for jobs and their answers.
pub(super) fn disk(home: &Home) -> Finding {
    let place = [&home.workspace, &home.root].into_iter().find(|path| path.exists());
    let Some(place) = place else { return Finding::fine("disk", "nothing is stored yet") };
    match rustix::fs::statvfs(place) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let detail = format!("{} free at {}", format::bytes(free), place.display());
            if free == 0 || (stat.f_files > 0 && stat.f_favail == 0) {
                Finding::broken("disk", failure(ErrorCode::Io, detail, "free some space"))
            } else if free < LITTLE_ROOM {
                Finding::warning("disk", detail, "free some space, or move the workspace")
            } else {
                Finding::fine("disk", detail)
            }
        }
        Err(error) => Finding::warning(
            "disk",
            format!("cannot determine the free space at {}: {error}", place.display()),
            "see `df`",
        ),
    }
}

/// Checks that a daemon answers, or that one could be started. If one answers, also reports its
/// nice level and the workspaces that it cannot use.
pub(super) async fn daemon(session: &mut Session) -> Result<Vec<Finding>, CommandError> {
    let daemon = session.daemon();
    let asked = async {
        match daemon.connect().await? {
            Some(client) => client.call(ask::Status).await.map(Some),
            None => Ok(None),
        }
    };
    let own = env!("CARGO_PKG_VERSION");
    let answer = session.attend(timeout(ANSWER_LIMIT, asked)).await?;
    let further = match &answer {
        Ok(Ok(Some(status))) => {
            slow(status.pid).into_iter().chain(unusable(&status.workspaces)).collect()
        }
        _ => Vec::new(),
    };
    let daemon = match answer {
        Ok(Ok(Some(status))) if status.version != own => Finding::warning(
            "daemon",
            format!("process {} is version {}, this is {own}", status.pid, status.version),
            "threadrunner daemon restart",
        ),
        Ok(Ok(Some(status))) => Finding::fine(
            "daemon",
            format!(
                "process {}, up for {}, using {}",
                status.pid,
                format::seconds(status.uptime_s),
                format::bytes(status.memory_bytes)
            ),
        ),
        Ok(Ok(None)) => absent_daemon(session.home()),
        Ok(Err(failed)) => Finding::broken("daemon", failed),
        Err(_) => Finding::broken(
            "daemon",
            failure(
                ErrorCode::DaemonUnavailable,
                format!("it did not answer within {} s", ANSWER_LIMIT.as_secs()),
                "threadrunner daemon logs\nthreadrunner daemon restart --now",
            ),
        ),
    };
    Ok(std::iter::once(daemon).chain(further).collect())
}

/// Reports a daemon with a nice level, inherited from a shell and beyond its right to lower.
fn slow(pid: u32) -> Option<Finding> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    let nice = getpriority_process(Some(pid)).ok().filter(|&nice| nice > 0)?;
    let detail = format!("process {pid} has nice level {nice}: other processes go first");
    let mend = "threadrunner daemon restart, from a shell that does not run under `nice`";
    Some(Finding::warning("daemon", detail, mend))
}

fn unusable(workspaces: &[WorkspaceStatus]) -> Vec<Finding> {
    let broken = workspaces.iter().filter_map(|workspace| workspace.error.as_ref());
    broken
        .map(|error| {
            let mend = "fix it, then run `threadrunner daemon restart`";
            Finding::broken("workspace", failure(ErrorCode::Io, &error.message, mend))
        })
        .collect()
}

fn absent_daemon(home: &Home) -> Finding {
    let lock = home.run_dir.is_dir().then(|| FileLock::try_now(&home.daemon_lock())).transpose();
    let held = match lock {
        Ok(lock) => lock.is_some_and(|free| free.is_none()),
        Err(failed) => return Finding::broken("daemon", failed),
    };
    if held {
        return Finding::broken(
            "daemon",
            failure(
                ErrorCode::DaemonUnavailable,
                format!(
                    "one is running (it holds {}), but not listening at {}",
                    home.daemon_lock().display(),
                    home.socket.display()
                ),
                format!("unless it is ending, see `fuser -v {}`", home.daemon_lock().display()),
            ),
        );
    }
    match find_program("threadrunner-daemon", "THREADRUNNER_DAEMON") {
        Ok(program) => Finding::fine(
            "daemon",
            format!("not running; the first prompt starts {}", program.display()),
        ),
        Err(failed) => Finding::broken("daemon", failed),
    }
}

/// Checks the model files, and the model that a prompt would get.
pub(super) fn models(home: &Home, config: &Config) -> Vec<Finding> {
    let backend = resolve_backend(None, home, config);
    let files = match list_models(home) {
        Ok(files) => files,
        Err(failed) => return vec![Finding::broken("models", failed)],
    };
    let mut findings: Vec<_> = files
        .iter()
        .filter(|file| !has_magic(&file.path))
        .map(|file| {
            let message = format!("{} is not a GGUF file", file.path.display());
            Finding::broken("models", failure(ErrorCode::ModelLoad, message, "download it again"))
        })
        .collect();
    findings.extend(dangling_links(home).into_iter().map(|link| {
        let detail = format!("{}: {}", link.path.display(), link.why);
        Finding::warning("models", detail, "put the file back, or remove the link")
    }));
    if backend == BackendKind::Dummy {
        let mut detail = format!("the dummy backend needs none; {}", files.len());
        detail.push_str(" in models/");
        findings.push(Finding::fine("default model", detail));
        return findings;
    }
    findings.push(match resolve_model(home, config, backend, None) {
        Ok(model) => {
            let path = model.path.unwrap_or_default();
            let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            let detail = format!("{} ({})", path.display(), format::bytes(bytes));
            match available_memory() {
                Some(free) if free < bytes => Finding::warning(
                    "default model",
                    format!("{detail}, but only {} of memory is free", format::bytes(free)),
                    "use a smaller model",
                ),
                _ => Finding::fine("default model", detail),
            }
        }
        // Not broken: there are models, and each can be named.
        Err(failed) if failed.code == ErrorCode::NoModel && files.len() > 1 => Finding::warning(
            "default model",
            failed.message,
            "`threadrunner models default NAME` chooses one",
        ),
        Err(failed) => Finding::broken("default model", failed),
    });
    findings
}

fn has_magic(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"GGUF"
}

/// The memory available to programs, in bytes.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use threadrunner_core::ExitCode;

    fn home_at(root: &Path) -> Home {
        Home::resolve(Path::new("/"), |name| {
            (name == "THREADRUNNER_HOME").then(|| root.as_os_str().to_owned())
        })
        .unwrap()
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn an_open_directory_is_named_with_the_command_that_closes_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = home_at(dir.path());
        at.create().unwrap();
        assert!(home(&at).iter().all(|finding| finding.verdict == Verdict::Fine));
        chmod(&at.models_dir, 0o755);
        let open: Vec<_> =
            home(&at).into_iter().filter(|finding| finding.verdict != Verdict::Fine).collect();
        assert_eq!(open.len(), 1);
        assert_eq!(open[0].name, "models directory");
        assert!(open[0].mend.as_ref().unwrap().starts_with("chmod 700 "));
    }

    #[test]
    fn a_home_that_is_not_there_yet_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let findings = home(&home_at(&dir.path().join("new")));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].verdict, Verdict::Fine);
    }

    #[test]
    fn a_file_where_the_socket_should_be_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let at = home_at(dir.path());
        at.create().unwrap();
        assert_eq!(socket(&at).verdict, Verdict::Fine);
        fs::write(&at.socket, "").unwrap();
        assert_eq!(socket(&at).verdict, Verdict::Broken);
        assert_eq!(socket(&at).code, ExitCode::Connection);
    }

    #[test]
    fn a_model_that_is_no_gguf_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = home_at(dir.path());
        at.create().unwrap();
        fs::write(at.models_dir.join("good.gguf"), "GGUF...").unwrap();
        fs::write(at.models_dir.join("bad.gguf"), "<html>").unwrap();
        let findings = models(&at, &Config::default());
        assert_eq!(findings[0].verdict, Verdict::Broken);
        assert!(findings[0].detail.contains("bad.gguf"));
        assert_eq!(findings[0].code, ExitCode::Model);
    }

    #[test]
    fn several_models_of_which_none_is_chosen_are_no_fault() {
        let dir = tempfile::tempdir().unwrap();
        let at = home_at(dir.path());
        at.create().unwrap();
        for name in ["a.gguf", "b.gguf"] {
            fs::write(at.models_dir.join(name), "GGUF...").unwrap();
        }
        let config = Config { backend: Some(BackendKind::Llama), ..Config::default() };
        let findings = models(&at, &config);
        assert_eq!((findings.len(), findings[0].verdict), (1, Verdict::Warning));
        assert!(findings[0].mend.as_ref().unwrap().contains("models default"));
        threadrunner_home::note_last_model(&at, &at.models_dir.join("b.gguf")).unwrap();
        assert_eq!(models(&at, &config)[0].verdict, Verdict::Fine);
    }

    #[test]
    fn a_lock_that_is_held_by_one_who_does_not_listen_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let at = home_at(dir.path());
        at.create().unwrap();
        let _lock = FileLock::try_now(&at.daemon_lock()).unwrap().unwrap();
        assert_eq!(absent_daemon(&at).verdict, Verdict::Broken);
    }
}
