//! The directories that became workspaces by being used, as the daemon lists them for the next one.

use std::io;
use std::path::{Path, PathBuf};

use threadrunner_core::{Failure, WorkspaceName};

use crate::workspace_place::refused;
use crate::{Config, Home, Links, WorkspaceSettings, check_directory, read_regular, unusable};

/// The maximum number of them that a daemon serves. Each costs a thread and some descriptors.
pub const MOST_DIRECTORIES: usize = 64;
/// The maximum size of the list of them, in bytes: paths have at most 4096.
const LIST_BYTES: u64 = MOST_DIRECTORIES as u64 * 4097;

impl Config {
    /// The directories that the last daemon served and that are still workspaces, and why the
    /// others are not.
    pub fn used_workspaces(&self, home: &Home) -> (Vec<WorkspaceSettings>, Vec<Failure>) {
        let list = home.used_directories();
        let (mut used, mut wrong) = (Vec::<WorkspaceSettings>::new(), Vec::new());
        let text = match read_regular(&list, LIST_BYTES, Links::Refused) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                wrong.push(unusable("read", &list, &error));
                String::new()
            }
        };
        let names = text.lines().map(WorkspaceName::from).filter(|name| name.directory().is_some());
        for name in names.take(MOST_DIRECTORIES) {
            let settings = self.workspace(home, Some(&name)).and_then(|settings| {
                check_directory(&settings.path, false)?;
                Ok(settings)
            });
            match settings {
                // It may have a name in `config.toml` by now.
                Ok(settings) if settings.name.directory().is_none() => {}
                Ok(settings) => {
                    let known: Vec<_> = used.iter().map(|known| known.path.clone()).collect();
                    match apart(&settings.path, &known) {
                        Ok(()) => used.push(settings),
                        Err(failure) => wrong.push(failure),
                    }
                }
                Err(failure) => wrong.push(failure),
            }
        }
        (used, wrong)
    }

    /// All workspaces that the next daemon will serve: the configured ones, and the directories
    /// that became workspaces by being used.
    pub fn all_workspaces(&self, home: &Home) -> Vec<WorkspaceSettings> {
        let mut all = self.workspaces(home);
        all.extend(self.used_workspaces(home).0);
        all
    }
}

/// Checks that a directory is neither inside another workspace nor around one.
///
/// # Errors
/// [`ErrorCode::InvalidRequest`](threadrunner_core::ErrorCode::InvalidRequest).
pub fn apart(path: &Path, known: &[PathBuf]) -> Result<(), Failure> {
    let within = |other: &&PathBuf| path.starts_with(other) || other.starts_with(path);
    match known.iter().find(within) {
        Some(other) => {
            let (path, other) = (path.display(), other.display());
            Err(refused(format!("{path} overlaps the workspace {other}: one contains the other"))
                .hint("name another directory with -w"))
        }
        None => Ok(()),
    }
}
