//! `sessions`: the conversations there are, the one last spoken in first.

use threadrunner_core::protocol::{SessionList, SessionRecord, SessionsQuery};
use threadrunner_core::{ErrorCode, Failure, JobId, SessionFile, SessionName};
use threadrunner_workspace::{Chain, Reader, WorkspaceError, by_time};

use super::Stop;
use crate::connection::Answer;
use crate::context::Context;
use crate::workspaces::{Served, blocking};

/// Records sent at most.
const MOST: usize = 10_000;

pub(super) async fn sessions(
    context: &Context,
    query: SessionsQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let among = context.among(query.workspace.as_deref()).await?;
    let limit = query.limit.map_or(MOST, |limit| (limit as usize).min(MOST));
    let list = blocking(move || list(&among, limit)).await?;
    answer.data(&list).await?;
    Ok(())
}

/// A session that was found: as it stands, or why its file cannot be used.
struct Found<'a> {
    workspace: &'a Served,
    name: SessionName,
    file: Result<SessionFile, String>,
}

impl Found<'_> {
    fn last(&self) -> Option<&JobId> {
        self.file.as_ref().ok().and_then(SessionFile::last)
    }
}

fn list(among: &[Served], limit: usize) -> Result<SessionList, Failure> {
    let mut found = Vec::new();
    for workspace in among {
        for name in workspace.reader.session_names()? {
            let file = match workspace.reader.session(&name) {
                Ok(Some(file)) => Ok(file),
                Ok(None) => continue,
                Err(error @ WorkspaceError::UnfitSession { .. }) => Err(error.to_string()),
                Err(error) => return Err(error.into()),
            };
            found.push(Found { workspace, name, file });
        }
    }
    found.sort_by(|a, b| match (a.last(), b.last()) {
        (Some(a), Some(b)) => by_time(b, a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    let more = found.len() > limit;
    found.truncate(limit);
    let records = found.into_iter().map(|found| {
        let record = blank(found.name, found.workspace);
        match found.file {
            Ok(file) => Ok(fill(record, file, &found.workspace.reader)?.0),
            Err(error) => {
                let error = Some(Failure::new(ErrorCode::Io, error));
                Ok(SessionRecord { error, ..record })
            }
        }
    });
    let sessions = records.collect::<Result<_, Failure>>()?;
    Ok(SessionList { sessions, more })
}

/// What is known of a session, and its turns.
pub(super) fn record(
    name: SessionName,
    file: SessionFile,
    workspace: &Served,
) -> Result<(SessionRecord, Chain), Failure> {
    fill(blank(name, workspace), file, &workspace.reader)
}

fn blank(session: SessionName, workspace: &Served) -> SessionRecord {
    SessionRecord {
        session,
        workspace: workspace.settings.name.clone(),
        head: None,
        pending: Vec::new(),
        turns: 0,
        updated_at: None,
        model: None,
        system: None,
        prompt_start: String::new(),
        missing: None,
        error: None,
    }
}

fn fill(
    mut record: SessionRecord,
    file: SessionFile,
    reader: &Reader,
) -> Result<(SessionRecord, Chain), Failure> {
    let chain = match &file.head {
        Some(head) => reader.chain(head)?,
        None => Chain::default(),
    };
    // Its job may be gone: then that is what there is to tell.
    if let Some(last) = file.last()
        && let (Ok(spec), Ok(job)) = (reader.spec(last), reader.record(last))
    {
        record.updated_at = job.meta.submitted_at;
        record.prompt_start = job.prompt_start;
        record.model = spec.model.map(|model| model.name());
        record.system = spec.system;
    }
    record.turns = u32::try_from(chain.turns.len()).unwrap_or(u32::MAX);
    record.missing.clone_from(&chain.missing);
    (record.head, record.pending) = (file.head, file.pending);
    Ok((record, chain))
}
