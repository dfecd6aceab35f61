//! What the keeper knows of sessions.

use std::collections::{HashMap, HashSet};

use threadrunner_core::{CacheName, JobId, SessionFile, SessionName};

use super::Reply;

/// The sessions in memory. Files are read when first needed.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    pub(super) known: HashMap<SessionName, SessionFile>,
    /// Unfinished turns, and their sessions.
    pub(super) turns: HashMap<JobId, SessionName>,
    /// The jobs that each conversation needs, as far as that was looked up.
    pub(super) kept: HashMap<SessionName, HashSet<JobId>>,
    /// Sessions whose last turn is to be undone after the next sync.
    pub(super) undos: Vec<(SessionName, Reply<Undone>)>,
    /// Sessions to remove after the next sync.
    pub(super) removals: Vec<(SessionName, Reply<RemovedSession>)>,
}

/// What a removed session leaves behind.
#[derive(Debug)]
pub(crate) struct RemovedSession {
    /// The engines' name for its cached state.
    pub(crate) state: CacheName,
    /// Its turns.
    pub(crate) turns: Vec<JobId>,
}

/// A turn that was undone.
#[derive(Debug)]
pub(crate) struct Undone {
    /// Its job.
    pub(crate) turn: JobId,
    /// How many turns are left.
    pub(crate) left: usize,
    /// The engines' name for the session's cached state, if no turns are left and the session is
    /// gone.
    pub(crate) forgotten: Option<CacheName>,
}
