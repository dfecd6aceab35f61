//! What the owner has others do on disks: it never waits for one itself. The answers come as
//! [`News`].

use std::path::PathBuf;
use std::sync::Arc;

use threadrunner_core::engine_protocol::StateDirectory;
use threadrunner_core::protocol::ModelQuery;
use threadrunner_core::{CacheName, Failure, ModelRef};
use threadrunner_home::{Config, Home, WorkspaceSettings};
use tokio::sync::{mpsc, oneshot};

use crate::engine::EngineId;
use crate::errands::Errands;
use crate::models::{Asked, FoundModel, ModelCatalog};
use crate::states;
use crate::store::WorkspaceId;
use crate::taken::{Taken, taken};

/// News that may wait for the owner; beyond that, those who bring them wait.
const NEWS: usize = 64;

/// What was done on a disk.
#[derive(Debug)]
pub(super) enum News {
    /// A model was looked at.
    Looked(ModelRef, Result<FoundModel, Failure>),
    /// The usual model of a workspace was looked up.
    Usual(WorkspaceId, Result<FoundModel, Failure>),
    /// The directory for session states of a model was created, if that was possible.
    State(ModelRef, Option<StateDirectory>),
    /// What engines take of the machine.
    Taken(Vec<(EngineId, Taken)>),
}

/// Those who work on disks for the owner.
#[derive(Debug)]
pub(super) struct Disk {
    catalog: ModelCatalog,
    errands: Errands,
    home: Home,
    keeps_states: bool,
    news: mpsc::Sender<News>,
}

impl Disk {
    pub(super) fn new(
        home: Home,
        config: &Config,
        catalog: ModelCatalog,
    ) -> (Self, mpsc::Receiver<News>) {
        let (news, from_disk) = mpsc::channel(NEWS);
        let budget = config.sessions.state_bytes;
        let errands = Errands::start(home.cache_dir.join("state"), budget);
        (Self { catalog, errands, home, keeps_states: budget > 0, news }, from_disk)
    }

    /// Looks at a model, answered by [`News::Looked`].
    pub(super) fn look(&self, model: ModelRef) {
        let (catalog, news) = (self.catalog.clone(), self.news.clone());
        tokio::spawn(async move {
            let found = catalog.look(model.clone()).await;
            // The owner may be gone.
            let _ = news.send(News::Looked(model, found)).await;
        });
    }

    /// Looks up the usual model of a workspace, answered by [`News::Usual`].
    pub(super) fn find_usual(&self, id: WorkspaceId, workspace: Arc<WorkspaceSettings>) {
        let (catalog, news) = (self.catalog.clone(), self.news.clone());
        let query = ModelQuery { backend: None, model: None, draft: None };
        let asked = Asked { query, workspace: Some(workspace), drafted: true };
        tokio::spawn(async move {
            let found = catalog.resolve(asked).await;
            let _ = news.send(News::Usual(id, found)).await;
        });
    }

    /// Whether the states of sessions are kept.
    pub(super) fn keeps_states(&self) -> bool {
        self.keeps_states
    }

    /// Creates the directory for session states of a model, answered by [`News::State`]. Returns
    /// false if that cannot be done.
    pub(super) fn prepare_state(&self, model: ModelRef) -> bool {
        let news = self.news.clone();
        self.errands.run(move |states| {
            let state = states.directory(&model);
            let _ = news.blocking_send(News::State(model, state));
        })
    }

    /// Measures what engines take, given their process ids and directories, answered by
    /// [`News::Taken`]. Returns false if that cannot be done.
    pub(super) fn measure(&self, engines: Vec<(EngineId, u32, Option<StateDirectory>)>) -> bool {
        let news = self.news.clone();
        self.errands.run(move |_| {
            let measured =
                engines.into_iter().map(|(id, pid, state)| (id, taken(pid, state.as_ref())));
            let _ = news.blocking_send(News::Taken(measured.collect()));
        })
    }

    /// Removes the state of a session that is gone, then replies.
    pub(super) fn forget_state(&self, state: CacheName, reply: oneshot::Sender<()>) {
        let forget = move |states: &mut states::States| {
            states.forget(state);
            // The client may be gone.
            let _ = reply.send(());
        };
        if !self.errands.run(forget) {
            tracing::warn!("cannot remove the cached state of a session");
        }
    }

    /// Removes what an engine that has exited may have written and should not have.
    pub(super) fn engine_ended(&self) {
        // If it cannot be done now, the next exit does it.
        self.errands.run(|states| states.engine_ended());
    }

    /// Records which model was used last.
    pub(super) fn note_last_model(&self, model: PathBuf) {
        let home = self.home.clone();
        self.errands.run(move |_| {
            if let Err(error) = threadrunner_home::note_last_model(&home, &model) {
                tracing::warn!(%error, "cannot record the model used last");
            }
        });
    }
}
