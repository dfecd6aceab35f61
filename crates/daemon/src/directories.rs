//! Workspaces that are opened while the daemon runs: directories that become workspaces by being
//! used, and workspaces whose directories were gone. The next daemon opens used directories again,
//! so that what is queued in them survives as in any workspace.

use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, PoisonError};

use threadrunner_core::{ErrorCode, Failure, WorkspaceName};
use threadrunner_home::{
    Config, Home, MOST_DIRECTORIES, WorkspaceSettings, apart, check_directory, write_own,
};

use crate::blocking::blocking;
use crate::context::Context;
use crate::opening::{Opened, open, remember_names};
use crate::retention;
use crate::store::WorkspaceId;
use crate::workspaces::{Configured, Served};

/// The maximum number of openings in a daemon's life: the thread of a workspace that is gone stays.
const MOST_OPENED: usize = 256;

impl Context {
    /// Returns the named workspace, or the default one. A directory that is not a workspace becomes
    /// one, and a workspace whose directory is gone is created again.
    pub(crate) async fn workspace(&self, name: Option<&WorkspaceName>) -> Result<Served, Failure> {
        self.named(name, true).await
    }

    /// Returns the workspaces in which to look for jobs: the named one, or all that are there.
    pub(crate) async fn among(&self, name: Option<&WorkspaceName>) -> Result<Vec<Served>, Failure> {
        match name {
            Some(_) => Ok(vec![self.named(name, false).await?]),
            None => Ok(self.workspaces.in_place().await),
        }
    }

    async fn named(&self, name: Option<&WorkspaceName>, make: bool) -> Result<Served, Failure> {
        // Usually it is known by this very name.
        if let Ok(served) = self.workspaces.named(name)
            && served.is_in_place().await
        {
            return Ok(served);
        }
        let _turn = self.directories.turn.lock().await;
        let (config, home, name) = (self.config.clone(), self.home.clone(), name.cloned());
        let settings = blocking(move || {
            let settings = config.workspace(&home, name.as_ref())?;
            if settings.name.directory().is_some() {
                check_directory(&settings.path, make)?;
            }
            Ok(settings)
        })
        .await?;
        let known = self.workspaces.named(Some(&settings.name)).ok();
        match known {
            Some(served) if served.is_in_place().await => Ok(served),
            // Only a prompt creates it again: a disk may be away for a moment.
            Some(gone) if !make => Err(gone.gone()),
            gone => self.open(settings, gone).await,
        }
    }

    /// Opens a workspace: a directory that is used for the first time, or one that could not be
    /// used before, or that is gone from its place.
    async fn open(
        &self,
        settings: WorkspaceSettings,
        gone: Option<Served>,
    ) -> Result<Served, Failure> {
        let mut others = self.workspaces.directories();
        others.retain(|other| *other != settings.path);
        apart(&settings.path, &others)?;
        if settings.name.directory().is_some() && others.len() >= MOST_DIRECTORIES {
            return Err(Failure::new(
                ErrorCode::Overloaded,
                format!(
                    "{MOST_DIRECTORIES} directories are in use as workspaces, which is the maximum"
                ),
            )
            .hint("`threadrunner daemon restart` forgets those that are gone"));
        }
        if self.directories.opened() >= MOST_OPENED {
            return Err(Failure::new(
                ErrorCode::Overloaded,
                format!("the daemon has opened {MOST_OPENED} workspaces, which is the maximum"),
            )
            .hint("`threadrunner daemon restart` lets it open as many again"));
        }
        let before = match &gone {
            Some(gone) => {
                tracing::warn!(failure = %gone.gone(), "opening the workspace again");
                gone.archive.abandon(gone.gone()).await?;
                Some(gone.id)
            }
            None => None,
        };
        let (durability, settings) = (self.config.durability, Arc::new(settings));
        let (opening, home) = (Arc::clone(&settings), self.home.clone());
        let opened = blocking(move || open(&home, &opening, durability)).await;
        let served = match opened {
            Ok(opened) => self.serve(&settings, opened, before).await,
            Err(failure) => Err(failure),
        };
        // A directory that never was a workspace is not remembered as one.
        if served.is_ok() || gone.is_some() {
            self.workspaces.put(Configured { settings, served: served.clone() });
        }
        let served = served?;
        let (home, paths) = (self.home.clone(), self.workspaces.directories());
        blocking(move || {
            // Without the note, the next daemon opens it when it is used again.
            let list: Vec<_> = paths.iter().map(|path| path.as_os_str().as_bytes()).collect();
            if let Err(error) = write_own(&home.used_directories(), &list.join(&b'\n')) {
                tracing::warn!(%error, "cannot save the list of workspace directories");
            }
            Ok(())
        })
        .await?;
        Ok(served)
    }

    async fn serve(
        &self,
        settings: &Arc<WorkspaceSettings>,
        opened: Opened,
        before: Option<WorkspaceId>,
    ) -> Result<Served, Failure> {
        let reader = opened.workspace.reader();
        let (id, archive, thread) = self.hub.serve(Arc::clone(settings), opened, before).await?;
        self.directories.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        remember_names(reader.clone());
        let served = Served::new(id, Arc::clone(settings), reader, archive);
        tokio::spawn(retention::keep(served.clone()));
        Ok(served)
    }
}

/// The directories that the last daemon served and that still exist.
pub(crate) fn used_before(home: &Home, config: &Config) -> Vec<WorkspaceSettings> {
    let (used, wrong) = config.used_workspaces(home);
    for failure in wrong {
        tracing::warn!(%failure, "not served any more");
    }
    used
}
