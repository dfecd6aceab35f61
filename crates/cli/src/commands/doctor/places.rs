//! Checks of what is in the place of the locks and of a workspace's directories.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::Access;
use threadrunner_core::{ErrorCode, JobState};
use threadrunner_home::{Config, Home};

use super::{Finding, failure};

/// The lock in a workspace that its daemon holds.
const WORKSPACE_LOCK: &str = ".lock";

/// Returns what would make every prompt fail.
pub(super) fn broken(home: &Home, config: &Config) -> Vec<Finding> {
    let mut findings: Vec<_> =
        [home.spawn_lock(), home.daemon_lock()].iter().filter_map(|path| lock(path)).collect();
    for workspace in config.workspaces(home) {
        findings.extend(lock(&workspace.path.join(WORKSPACE_LOCK)));
        let places = JobState::ALL.map(|state| workspace.path.join(state.directory()));
        findings.extend(places.iter().filter_map(|path| directory(path)));
    }
    findings
}

/// A lock that exists and is no file.
fn lock(path: &Path) -> Option<Finding> {
    let found = fs::symlink_metadata(path).ok()?;
    let message = if !found.is_file() {
        format!("{} is not a file, so it cannot be a lock", path.display())
    } else if rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK).is_err() {
        format!("{} cannot be opened to lock it", path.display())
    } else {
        return None;
    };
    Some(Finding::broken("lock", failure(ErrorCode::Config, message, "move it away")))
}

/// A directory of a workspace that exists and cannot be used.
fn directory(path: &Path) -> Option<Finding> {
    let found = fs::symlink_metadata(path).ok()?;
    let shown = path.display();
    let mode = found.permissions().mode() & 0o777;
    let used = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    let (message, mend) = if !found.is_dir() {
        (format!("{shown} is not a directory"), "move it away".to_owned())
    } else if mode & 0o700 != 0o700 {
        (
            format!("{shown} has mode {mode:03o}: jobs cannot be put there"),
            format!("chmod 700 {shown}"),
        )
    } else if let Err(error) = rustix::fs::access(path, used) {
        (format!("{shown} cannot be used: {error}"), format!("ls -ld {shown}"))
    } else {
        return None;
    };
    Some(Finding::broken("workspace", failure(ErrorCode::Config, message, mend)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_makes_every_prompt_fail_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::resolve(dir.path(), |name| {
            (name == "THREADRUNNER_HOME").then(|| dir.path().join("home").into())
        });
        let home = home.unwrap();
        home.create().unwrap();
        let config = Config::default();
        let workspace = &home.workspace;
        for state in JobState::ALL {
            fs::create_dir_all(workspace.join(state.directory())).unwrap();
        }
        assert!(broken(&home, &config).is_empty());
        let said = |path: &Path| {
            let found = broken(&home, &config);
            assert_eq!(found.len(), 1, "{}: {found:?}", path.display());
        };
        for path in [home.spawn_lock(), home.daemon_lock(), workspace.join(WORKSPACE_LOCK)] {
            symlink(dir.path().join("thesis"), &path).unwrap();
            said(&path);
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            said(&path);
            fs::remove_dir(&path).unwrap();
            fs::write(&path, "").unwrap();
            assert!(broken(&home, &config).is_empty());
            fs::remove_file(&path).unwrap();
        }
        for state in JobState::ALL {
            let path = workspace.join(state.directory());
            fs::set_permissions(&path, fs::Permissions::from_mode(0o500)).unwrap();
            said(&path);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        }
    }
}
