//! The workspaces: the default one, and those of `[workspaces.NAME]`.

use std::path::{Path, PathBuf};

use threadrunner_core::{ErrorCode, Failure, JobSpec, Parameters, Priority, Role, WorkspaceName};

use crate::config::expand;
use crate::{Config, Home, RetentionConfig};

/// The longest name of a workspace, in bytes.
const NAME_BYTES: usize = 64;

/// A workspace, and the settings for jobs in it that do not set their own.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkspaceSettings {
    /// Its name.
    pub name: WorkspaceName,
    /// Its directory, absolute.
    pub path: PathBuf,
    /// Its own model; `None` means the general default.
    pub model: Option<String>,
    /// Instructions for jobs without any.
    pub system: Option<String>,
    /// The priority of jobs that do not set one.
    pub priority: Option<Priority>,
    /// The maximum number of attempts for a job.
    pub max_attempts: u32,
    /// Which ended jobs to keep.
    pub retention: RetentionConfig,
    /// Generation parameters: its own, then the general ones.
    pub defaults: Parameters,
}

impl WorkspaceSettings {
    /// Fills in the generation parameters and instructions that a job does not set.
    pub fn fill_in(&self, spec: &mut JobSpec) {
        spec.params = std::mem::take(&mut spec.params).or(&self.defaults);
        let instructed = spec.system.is_some()
            || spec.messages.iter().any(|message| message.role == Role::System);
        if !instructed && !spec.raw {
            spec.system.clone_from(&self.system);
        }
    }
}

impl Config {
    /// All workspaces: the default one first, then the others by name.
    pub fn workspaces(&self, home: &Home) -> Vec<WorkspaceSettings> {
        let default = WorkspaceSettings {
            name: WorkspaceName::default(),
            path: home.workspace.clone(),
            model: None,
            system: None,
            priority: None,
            max_attempts: self.max_attempts,
            retention: self.retention,
            defaults: self.defaults.clone(),
        };
        let others = self.workspaces.iter().map(|(name, own)| WorkspaceSettings {
            name: name.clone(),
            path: match &own.path {
                Some(path) => expand(path, &home.root),
                None => home.root.join("workspaces").join(name.as_str()),
            },
            model: own.model.clone(),
            system: own.system.clone(),
            priority: own.priority,
            max_attempts: own.max_attempts.unwrap_or(self.max_attempts),
            retention: own.retention.unwrap_or(self.retention),
            defaults: own.defaults.clone().or(&self.defaults),
        });
        std::iter::once(default).chain(others).collect()
    }

    /// The workspace of that name; without one, the default. A name with a slash is a directory:
    /// that of a configured workspace, or else one with the default workspace's settings.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`], with the known names, or with the workspace that the
    /// directory overlaps.
    pub fn workspace(
        &self,
        home: &Home,
        name: Option<&WorkspaceName>,
    ) -> Result<WorkspaceSettings, Failure> {
        let default = WorkspaceName::default();
        let name = name.unwrap_or(&default);
        let mut all = self.workspaces(home);
        if let Some(path) = name.directory() {
            return directory(path, all);
        }
        match all.iter().position(|workspace| workspace.name == *name) {
            Some(at) => Ok(all.swap_remove(at)),
            None => Err(no_such_workspace(name, all.iter().map(|it| &it.name))),
        }
    }

    /// Checks the names: they become part of paths and messages.
    pub(crate) fn check_workspace_names(&self) -> Result<(), String> {
        for name in self.workspaces.keys() {
            let name = name.as_str();
            if name == WorkspaceName::DEFAULT {
                return Err(
                    "[workspaces.default]: the default workspace is configured by the keys \
                            at the top, and its directory by THREADRUNNER_WORKSPACE"
                        .to_owned(),
                );
            }
            let of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            if name.len() > NAME_BYTES || name.is_empty() || !name.bytes().all(of_name) {
                return Err(format!(
                    "[workspaces.{name:?}]: a name is 1 to {NAME_BYTES} of the letters a to z and A \
                     to Z, digits, - and _"
                ));
            }
        }
        Ok(())
    }

    /// Checks that each workspace has a directory of its own.
    pub(crate) fn check_workspace_places(&self, home: &Home) -> Result<(), String> {
        let all = self.workspaces(home);
        let places: Vec<_> = all.iter().map(|it| (&it.name, real(&it.path))).collect();
        for (name, place) in &places {
            for (other, inside) in places.iter().filter(|(other, _)| other != name) {
                if inside == place {
                    return Err(format!(
                        "the workspaces '{name}' and '{other}' are the same directory: {}",
                        place.display()
                    ));
                }
                if inside.starts_with(place) {
                    return Err(format!(
                        "the workspace '{other}' is inside the workspace '{name}': {}",
                        inside.display()
                    ));
                }
            }
        }
        Ok(())
    }
}

fn directory(path: &Path, all: Vec<WorkspaceSettings>) -> Result<WorkspaceSettings, Failure> {
    let refused = |message| Failure::new(ErrorCode::InvalidRequest, message);
    if !path.is_absolute() {
        return Err(refused(format!("the workspace {} is not an absolute path", path.display())));
    }
    let place = real(path);
    let mut default = None;
    for known in all {
        let other = real(&known.path);
        if other == place {
            return Ok(known);
        }
        if place.starts_with(&other) || other.starts_with(&place) {
            return Err(refused(format!(
                "{} cannot be a workspace: it overlaps the workspace '{}' ({})",
                place.display(),
                known.name,
                other.display()
            ))
            .hint("name another directory with -w"));
        }
        default.get_or_insert(known);
    }
    let name = place.to_str().filter(|name| !name.contains('\n')).map(WorkspaceName::from);
    match (default, name) {
        (Some(default), Some(name)) => Ok(WorkspaceSettings { name, path: place, ..default }),
        _ => Err(refused(format!("the path {place:?} cannot be a workspace's name"))
            .hint("rename the directory")),
    }
}

/// The failure of a request that names a workspace which is not among `names`.
pub fn no_such_workspace<'a>(
    name: &WorkspaceName,
    names: impl Iterator<Item = &'a WorkspaceName>,
) -> Failure {
    let names: Vec<_> = names.map(WorkspaceName::as_str).collect();
    Failure::new(
        ErrorCode::InvalidRequest,
        format!("there is no workspace '{name}'; there are: {}", names.join(", ")),
    )
    .hint(format!("add [workspaces.{name}] to config.toml, then `threadrunner daemon restart`"))
}

/// Resolves the links in a path, as far as it exists.
fn real(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use threadrunner_core::Message;

    fn home(root: &Path, workspace: Option<&Path>) -> Home {
        Home::resolve(Path::new("/"), |name| match name {
            "THREADRUNNER_HOME" => Some(root.into()),
            "THREADRUNNER_WORKSPACE" => workspace.map(Into::into),
            _ => None,
        })
        .unwrap()
    }

    fn load(text: &str, workspace: Option<&str>) -> Result<Vec<WorkspaceSettings>, String> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::write(root.join("config.toml"), text).unwrap();
        let home = home(&root, workspace.map(|name| root.join(name)).as_deref());
        let config = Config::load(&home).map_err(|failure| failure.message)?;
        let mut all = config.workspaces(&home);
        for workspace in &mut all {
            workspace.path = workspace.path.strip_prefix(&root).unwrap().to_owned();
        }
        Ok(all)
    }

    #[test]
    fn a_workspace_says_what_the_top_of_the_file_says_unless_it_says_otherwise() {
        let all = load(
            "max_attempts = 2\n[defaults]\ntop_k = 1\nseed = 7\n\
             [retention]\nmax_jobs = 3\n\
             [workspaces.code]\nsystem = \"be brief\"\npriority = \"batch\"\n\
             retention = { max_jobs = 5 }\n\
             defaults = { top_k = 9 }\n\
             [workspaces.b]\npath = \"elsewhere\"\nmax_attempts = 5\nmodel = \"m\"\n",
            None,
        )
        .unwrap();
        let names: Vec<_> = all.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["default", "b", "code"]);
        assert_eq!(all[0].path, Path::new("workspace"));
        assert_eq!(all[0].defaults.top_k, Some(1));
        assert_eq!((all[1].path.as_path(), all[1].max_attempts), (Path::new("elsewhere"), 5));
        assert_eq!(all[1].model.as_deref(), Some("m"));
        assert_eq!((all[2].path.as_path(), all[2].max_attempts), (Path::new("workspaces/code"), 2));
        assert_eq!((all[2].defaults.top_k, all[2].defaults.seed), (Some(9), Some(7)));
        assert_eq!(all[2].priority, Some(Priority::Batch));
        assert_eq!((all[1].retention.max_jobs, all[2].retention.max_jobs), (Some(3), Some(5)));
    }

    #[test]
    fn a_job_that_brings_instructions_keeps_them() {
        let all = load("[workspaces.code]\nsystem = \"be brief\"\n", None).unwrap();
        let filled = |mut spec: JobSpec| {
            all[1].fill_in(&mut spec);
            spec.system
        };
        assert_eq!(filled(JobSpec::default()).as_deref(), Some("be brief"));
        let own = JobSpec { system: Some("be long".into()), ..JobSpec::default() };
        assert_eq!(filled(own).as_deref(), Some("be long"));
        let message = Message::new(Role::System, "be odd");
        assert_eq!(filled(JobSpec { messages: vec![message], ..JobSpec::default() }), None);
        assert_eq!(filled(JobSpec { raw: true, ..JobSpec::default() }), None);
    }

    #[test]
    fn names_and_places_that_cannot_be_are_refused() {
        for (text, words) in [
            ("[workspaces.default]\n", "[workspaces.default]: the default workspace"),
            ("[workspaces.\"a/b\"]\n", "[workspaces.\"a/b\"]: a name is"),
            ("[workspaces.\"\"]\n", "a name is"),
            (
                "[workspaces.a]\npath = \"x\"\n[workspaces.b]\npath = \"x\"\n",
                "'a' and 'b' are the same",
            ),
            ("[workspaces.a]\npath = \"workspace\"\n", "'default' and 'a' are the same"),
            ("[workspaces.a]\npath = \"workspace/a\"\n", "'a' is inside the workspace 'default'"),
            ("[workspaces.a]\npath = \".\"\n", "'default' is inside the workspace 'a'"),
            ("[workspaces.a]\npath = \"\"\n", "path is empty"),
            ("[workspaces.a]\nmax_attempts = 0\n", "[workspaces.a]: max_attempts"),
        ] {
            let message = load(text, None).unwrap_err();
            assert!(message.contains("config.toml"), "{message}");
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn the_default_workspace_may_be_moved_but_not_into_another() {
        let text = "[workspaces.a]\npath = \"x\"\n";
        assert_eq!(load(text, Some("y")).unwrap()[0].path, Path::new("y"));
        let message = load(text, Some("x")).unwrap_err();
        assert!(message.contains("'default' and 'a' are the same"), "{message}");
    }

    #[test]
    fn two_names_for_one_directory_are_seen_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("x")).unwrap();
        std::os::unix::fs::symlink("x", root.join("y")).unwrap();
        let config = Config::parse(
            "[workspaces.a]\npath = \"x/w\"\n[workspaces.b]\npath = \"y/w\"\n",
            Path::new("config.toml"),
        )
        .unwrap();
        let message = config.check_workspace_places(&home(&root, None)).unwrap_err();
        assert!(message.contains("'a' and 'b' are the same"), "{message}");
    }

    #[test]
    fn a_path_is_a_workspace_too() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let home = home(&root.join("h"), None);
        let config = Config::parse("[workspaces.code]\n[defaults]\nseed = 1\n", Path::new("c"));
        let config = config.unwrap();
        let at = |path: PathBuf| {
            config.workspace(&home, path.to_str().map(WorkspaceName::from).as_ref())
        };
        let ws = at(root.join("ws")).unwrap();
        assert_eq!(
            (ws.name.as_str(), &ws.path),
            (root.join("ws").to_str().unwrap(), &root.join("ws"))
        );
        assert_eq!(ws.defaults.seed, Some(1));
        assert_eq!(at(root.join("h/workspaces/code")).unwrap().name.as_str(), "code");
        assert_eq!(at(root.join("h/workspace")).unwrap().name.as_str(), "default");
        for wrong in [root.join("h/workspace/x"), root.join("h"), "/".into(), "./x".into()] {
            assert!(at(wrong.clone()).is_err(), "{}", wrong.display());
        }
    }

    #[test]
    fn a_workspace_that_is_not_there_is_refused_with_those_that_are() {
        let config = Config::parse("[workspaces.code]\n", Path::new("config.toml")).unwrap();
        let home = home(Path::new("/h"), None);
        assert_eq!(config.workspace(&home, None).unwrap().name.as_str(), "default");
        let failure = config.workspace(&home, Some(&"cod".into())).unwrap_err();
        assert!(failure.message.ends_with("there are: default, code"), "{failure}");
    }
}
