//! The models on disk: which names lead to which files, and which files those are.
//!
//! A model may lie on a disk that does not answer, such as a network mount whose server is gone. So
//! the thread that serves never looks at one: [`ModelCatalog`] keeps a listing of `models/`, which
//! a thread of its own refreshes, and looks at single models on threads for that, a bounded number
//! of them for each model and in all. A client waits a bounded time for that.

mod looks;
mod refresh;

use std::fmt::Debug;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use threadrunner_core::protocol::ModelQuery;
use threadrunner_core::{BackendKind, ErrorCode, Failure, ModelRef};
use threadrunner_home::{
    Config, Home, Listing, ModelConfig, WorkspaceSettings, resolve_backend, resolve_draft,
    resolve_model, resolve_workspace_model,
};

use crate::model_files::ModelFiles;
pub(crate) use looks::AT_ONCE;
use looks::Looks;
use refresh::Refresh;

/// How long a disk may take to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A model that a request asks for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) query: ModelQuery,
    /// The workspace that says what is usual, if not the configuration.
    pub(crate) workspace: Option<Arc<WorkspaceSettings>>,
    /// Whether it has its configured draft model if the query names none.
    pub(crate) drafted: bool,
}

/// A model as it was found on disk.
#[derive(Debug, Clone)]
pub(crate) struct FoundModel {
    pub(crate) model: ModelRef,
    /// Its files, to notice that they were replaced.
    pub(crate) files: ModelFiles,
    /// Its settings in `config.toml`. Which those are depends on where names lead.
    pub(crate) settings: ModelConfig,
}

/// Where models are looked up. Every method may wait for a disk.
pub(crate) trait ModelDisk: Debug + Send + Sync {
    /// Lists `models/`.
    fn list(&self) -> Result<Listing, Failure>;

    /// The backend of requests that name none. The engine may be asked for it.
    fn usual(&self) -> BackendKind;

    /// Resolves what a request asks for.
    fn resolve(&self, asked: &Asked, listed: Arc<Listing>) -> Result<ModelRef, Failure>;

    /// Looks at a model's files, and finds its settings.
    fn look(&self, model: ModelRef, listed: Arc<Listing>) -> FoundModel;
}

/// The models of a home.
#[derive(Debug, Clone)]
pub(crate) struct HomeModels {
    pub(crate) home: Home,
    pub(crate) config: Config,
}

impl ModelDisk for HomeModels {
    fn list(&self) -> Result<Listing, Failure> {
        Listing::read(&self.home)
    }

    fn usual(&self) -> BackendKind {
        resolve_backend(None, &self.home, &self.config)
    }

    fn resolve(&self, asked: &Asked, listed: Arc<Listing>) -> Result<ModelRef, Failure> {
        let (config, query) = (&self.config, &asked.query);
        let backend = query.backend.unwrap_or_else(|| self.usual());
        let home = &self.home.with_listing(Some(listed));
        let name = query.model.as_deref();
        let model = match &asked.workspace {
            Some(workspace) => resolve_workspace_model(home, config, workspace, backend, name)?,
            None => resolve_model(home, config, backend, name)?,
        };
        match asked.drafted || query.draft.is_some() {
            true => resolve_draft(home, config, model, query.draft.as_deref()),
            false => Ok(model),
        }
    }

    fn look(&self, model: ModelRef, listed: Arc<Listing>) -> FoundModel {
        let home = self.home.with_listing(Some(listed));
        let settings = self.config.model_settings(&home, &model);
        FoundModel { files: ModelFiles::of(&model), settings, model }
    }
}

/// Answers what is known of models, without waiting for a disk on the thread that asks.
#[derive(Debug, Clone)]
pub(crate) struct ModelCatalog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn ModelDisk>,
    /// The backend of requests that name none, once it is known. The dummy needs no disk.
    usual: OnceLock<BackendKind>,
    listed: Mutex<Option<Arc<Listing>>>,
    looks: Looks,
    /// Unset on other disks than a home's.
    refresh: OnceLock<Refresh>,
}

impl ModelCatalog {
    /// The models of a home. Their listing is kept fresh while the catalog exists.
    pub(crate) fn of(home: &Home, config: &Config) -> Self {
        let disk = HomeModels { home: home.clone(), config: config.clone() };
        let catalog = Self::on(Arc::new(disk), home.backend.or(config.backend));
        let refresh = refresh::keep_fresh(&home.models_dir, &catalog);
        let _ = catalog.0.refresh.set(refresh);
        catalog
    }

    /// The models on any disk; `usual` is the backend of requests that name none, if it is known.
    pub(crate) fn on(disk: Arc<dyn ModelDisk>, usual: Option<BackendKind>) -> Self {
        let usual = usual.map_or_else(OnceLock::new, OnceLock::from);
        let (listed, looks, refresh) = (Mutex::new(None), Looks::default(), OnceLock::new());
        Self(Arc::new(Inner { disk, usual, listed, looks, refresh }))
    }

    /// As [`ModelCatalog::resolve`], for a client that waits.
    ///
    /// # Errors
    /// As there, and [`ErrorCode::ModelLoad`] if the disk does not answer in time.
    pub(crate) async fn resolve_soon(&self, asked: Asked) -> Result<FoundModel, Failure> {
        let name = name_of(&asked);
        match tokio::time::timeout(PATIENCE, self.resolve(asked)).await {
            Ok(found) => found,
            Err(_) => Err(no_answer(&name)),
        }
    }

    /// Resolves what a request asks for, and looks at the model, however long the disk takes.
    ///
    /// # Errors
    /// Those of [`resolve_model`].
    pub(crate) async fn resolve(&self, asked: Asked) -> Result<FoundModel, Failure> {
        let inner = Arc::clone(&self.0);
        if asked.query.backend.or(inner.usual.get().copied()) == Some(BackendKind::Dummy) {
            // Its names lead to no files, but what they lead to may be one.
            let model = inner.disk.resolve(&asked, Arc::default())?;
            return self.look(model).await;
        }
        let name = name_of(&asked);
        self.0.looks.run(&name, move || inner.find(&asked)).await?
    }

    /// Looks at a model, however long its disk takes.
    ///
    /// # Errors
    /// The daemon is ending.
    pub(crate) async fn look(&self, model: ModelRef) -> Result<FoundModel, Failure> {
        let inner = Arc::clone(&self.0);
        if model.path.is_none() && model.draft.is_none() {
            return Ok(inner.disk.look(model, Arc::default()));
        }
        let name = model.path.as_deref().unwrap_or("".as_ref()).to_string_lossy().into_owned();
        self.0.looks.run(&name, move || inner.disk.look(model, inner.listed_or_empty())).await
    }
}

impl Inner {
    /// Resolves and looks, with the listing that there is. A model that is not in it may be new.
    fn find(&self, asked: &Asked) -> Result<FoundModel, Failure> {
        self.usual.get_or_init(|| self.disk.usual());
        let known = self.listed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let found = match known {
            Some(listed) => self.find_in(asked, listed),
            None => return self.find_in(asked, self.list()?),
        };
        match found {
            Err(failure)
                if matches!(failure.code, ErrorCode::NoModel | ErrorCode::ModelNotFound) =>
            {
                self.find_in(asked, self.list()?)
            }
            found => found,
        }
    }

    fn find_in(&self, asked: &Asked, listed: Arc<Listing>) -> Result<FoundModel, Failure> {
        let model = self.disk.resolve(asked, Arc::clone(&listed))?;
        Ok(self.disk.look(model, listed))
    }

    /// Lists `models/`, and keeps the listing.
    fn list(&self) -> Result<Arc<Listing>, Failure> {
        let listed = Arc::new(self.disk.list()?);
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&listed));
        Ok(listed)
    }

    fn listed_or_empty(&self) -> Arc<Listing> {
        let known = self.listed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.or_else(|| self.list().ok()).unwrap_or_default()
    }
}

/// What a request calls the model.
fn name_of(asked: &Asked) -> String {
    let workspace = || asked.workspace.as_ref().and_then(|workspace| workspace.model.clone());
    asked.query.model.clone().or_else(workspace).unwrap_or_default()
}

fn no_answer(name: &str) -> Failure {
    let name = if name.is_empty() { "the default model" } else { name };
    Failure::new(
        ErrorCode::ModelLoad,
        format!("cannot look at {name}: its disk did not answer for {} s", PATIENCE.as_secs()),
    )
    .hint("is the disk mounted, and its server reachable?")
}

#[cfg(test)]
pub(crate) mod tests;
