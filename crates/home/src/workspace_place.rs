//! Which directories may be workspaces.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use threadrunner_core::{ErrorCode, Failure};

use crate::Home;

/// What is left of a workspace after `rm -rf ws/*`.
const LEFT: [&str; 7] =
    [".hooks", ".lock", ".newest", ".newest.tmp", ".nrvnad.pid", ".redo", ".sessions"];

/// Checks that a directory is a workspace or, with `make`, may become one. A mistyped path must not
/// put jobs among a user's files, and nobody else may be able to add jobs.
///
/// # Errors
/// [`ErrorCode::JobNotFound`] if it is no workspace and may not become one;
/// [`ErrorCode::InvalidRequest`] if it cannot be one.
pub fn check_directory(path: &Path, make: bool) -> Result<(), Failure> {
    let shown = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound && make => {
            return match path.parent().map(Path::is_dir) {
                Some(true) => Ok(()),
                _ => Err(refused(format!("cannot create {shown}: its parent does not exist"))
                    .hint("create that first, or name another with -w")),
            };
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(none_there(path));
        }
        Err(error) => return Err(refused(format!("cannot access {shown}: {error}"))),
    };
    check_owner(path, &metadata)?;
    let content = content(path)
        .map_err(|error| refused(format!("cannot read the directory {shown}: {error}")))?;
    match (content, make) {
        (Content::Workspace, _) => Ok(()),
        (_, false) => Err(none_there(path)),
        (Content::Nothing, true) => Ok(()),
        (Content::Files, true) => Err(mixed(path)),
    }
}

impl Home {
    /// Checks that the directory of a configured workspace is in this home, is a workspace, is
    /// empty, or does not exist.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`] if it has other files in it.
    pub fn check_workspace(&self, path: &Path) -> Result<(), Failure> {
        if path.starts_with(&self.root) {
            return Ok(());
        }
        // What else is wrong is found when it is created and opened.
        match content(path) {
            Ok(Content::Files) => Err(mixed(path)),
            Ok(Content::Workspace | Content::Nothing) | Err(_) => Ok(()),
        }
    }
}

enum Content {
    Workspace,
    Nothing,
    Files,
}

fn content(path: &Path) -> io::Result<Content> {
    if path.join("input/ready").is_dir() {
        return Ok(Content::Workspace);
    }
    let is_foreign = |entry: &fs::DirEntry| !LEFT.iter().any(|left| entry.file_name() == *left);
    let mut entries = fs::read_dir(path)?.filter_map(|entry| entry.ok().filter(is_foreign));
    Ok(entries.next().map_or(Content::Nothing, |_| Content::Files))
}

fn mixed(path: &Path) -> Failure {
    let shown = path.display();
    refused(format!(
        "{shown} has files in it and is not a workspace: jobs would be mixed with them"
    ))
    .hint(format!("name a new directory, such as {shown}/ws"))
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), Failure> {
    let shown = path.display();
    if !metadata.is_dir() {
        return Err(refused(format!("{shown} is not a directory")).hint("name another with -w"));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        let owner = metadata.uid();
        return Err(refused(format!("{shown} belongs to user {owner}"))
            .hint("a workspace belongs to its user: name another with -w"));
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(refused(format!("everybody can write into {shown}"))
            .hint(format!("whoever can add jobs can run programs as you: `chmod o-w {shown}`")));
    }
    Ok(())
}

fn none_there(path: &Path) -> Failure {
    Failure::new(ErrorCode::JobNotFound, format!("there is no workspace at {}", path.display()))
        .hint("the first prompt with -w creates it")
}

pub(crate) fn refused(message: String) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_is_a_workspace_or_can_become_one_or_neither() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("new");
        assert!(check_directory(&new, true).is_ok());
        assert_eq!(check_directory(&new, false).unwrap_err().code, ErrorCode::JobNotFound);
        assert!(check_directory(&new.join("deeper"), true).is_err());
        fs::create_dir(&new).unwrap();
        assert!(check_directory(&new, true).is_ok());
        fs::write(new.join(".lock"), "").unwrap();
        assert!(check_directory(&new, true).is_ok());
        fs::write(new.join("file"), "").unwrap();
        let failure = check_directory(&new, true).unwrap_err();
        assert!(failure.message.contains("has files in it"), "{failure}");
        let elsewhere = dir.path().join("elsewhere");
        let home = Home::resolve(&elsewhere, |name| {
            (name == "HOME").then(|| elsewhere.as_os_str().to_owned())
        })
        .unwrap();
        assert!(home.check_workspace(&new).is_err());
        fs::create_dir_all(&home.workspace).unwrap();
        fs::write(home.workspace.join("file"), "").unwrap();
        assert!(home.check_workspace(&home.workspace).is_ok());
        fs::create_dir_all(new.join("input/ready")).unwrap();
        assert!(check_directory(&new, true).is_ok() && check_directory(&new, false).is_ok());
        assert!(home.check_workspace(&new).is_ok());
        assert!(home.check_workspace(&new.join("none")).is_ok());
        fs::set_permissions(&new, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(check_directory(&new, true).unwrap_err().message.contains("everybody can write"));
        assert!(
            check_directory(&new.join("file"), true)
                .unwrap_err()
                .message
                .contains("not a directory")
        );
    }
}
