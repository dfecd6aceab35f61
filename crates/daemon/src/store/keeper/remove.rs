//! Removing jobs: each is set aside with one rename, and a thread of its own deletes the files, so
//! that nobody waits for a large tree except the client that removes it.

use std::collections::HashMap;
use std::sync::mpsc::{self, SendError, Sender};
use std::thread;

use threadrunner_core::protocol::{NotRemoved, Removed};
use threadrunner_core::{Failure, JobId};
use threadrunner_workspace::{Gone, Synced, WorkspaceError};

use super::super::Reply;
use super::Keeper;

/// A removal that a client waits for.
#[derive(Debug)]
pub(super) struct Removal {
    removed: Removed,
    reply: Reply<Removed>,
}

/// The thread that deletes the files of removed jobs. Starts with the first.
#[derive(Debug, Default)]
pub(super) struct Remover(Option<Sender<(Removal, Vec<Gone>)>>);

impl Keeper {
    /// Prepares to remove ended jobs. Those that are missing or queued again are skipped, unless
    /// there is only one to remove.
    pub(super) fn remove(&mut self, ids: Vec<JobId>, reply: Reply<Removed>) {
        let alone = ids.len() == 1;
        let mut removed = Removed::default();
        for job in ids {
            match self.workspace.remove(&job) {
                Ok(()) => removed.jobs.push(job),
                Err(error) if alone || !is_not_there(&error) => {
                    removed.failed.push(NotRemoved { job, error: error.into() });
                }
                Err(_) => {}
            }
        }
        self.pending_removals.push(Removal { removed, reply });
    }

    /// Hands what a sync set aside to the thread that deletes it.
    pub(super) fn finish_removals(&mut self, synced: &mut Synced) {
        let gone = std::mem::take(&mut synced.gone);
        let mut gone: HashMap<JobId, Gone> =
            gone.into_iter().map(|gone| (gone.id().clone(), gone)).collect();
        for Removal { removed, reply } in std::mem::take(&mut self.pending_removals) {
            let Removed { jobs, mut failed } = removed;
            let alone = jobs.len() == 1;
            let mut files = Vec::new();
            let jobs = jobs.into_iter().filter_map(|job| match synced.take_error(&job) {
                None => {
                    files.extend(gone.remove(&job));
                    Some(job)
                }
                Some(error) => {
                    if alone || !is_not_there(&error) {
                        failed.push(NotRemoved { job, error: error.into() });
                    }
                    None
                }
            });
            let removed = Removed { jobs: jobs.collect(), failed };
            self.remover.finish(Removal { removed, reply }, files);
        }
    }
}

impl Remover {
    fn finish(&mut self, removal: Removal, files: Vec<Gone>) {
        let sender = match self.0.take() {
            Some(sender) => sender,
            None => {
                let (sender, removals) = mpsc::channel();
                let work = move || removals.into_iter().for_each(finish);
                let thread = thread::Builder::new().name("remover".to_owned());
                if let Err(error) = thread.spawn(work) {
                    tracing::warn!(%error, "no thread to delete files: others wait for it");
                    return finish((removal, files));
                }
                sender
            }
        };
        match sender.send((removal, files)) {
            Ok(()) => self.0 = Some(sender),
            Err(SendError(removal)) => finish(removal),
        }
    }
}

fn finish((removal, files): (Removal, Vec<Gone>)) {
    let Removal { mut removed, reply } = removal;
    for gone in files {
        if let Err(error) = gone.delete() {
            let job = gone.id().clone();
            tracing::warn!(%job, %error, "some files of a removed job are left");
            removed.failed.push(NotRemoved { error: left(&job, error), job });
        }
    }
    // The client may be gone.
    let _ = reply.send(Ok(removed));
}

fn left(job: &JobId, error: WorkspaceError) -> Failure {
    let failure = Failure::from(error);
    let message = format!("job {job} is removed, but files of it are left: {}", failure.message);
    Failure::new(failure.code, message)
        .hint("delete them by hand; the daemon tries again when it starts")
}

fn is_not_there(error: &WorkspaceError) -> bool {
    matches!(error, WorkspaceError::NotFound { .. } | WorkspaceError::WrongState { .. })
}
