//! Lists the sessions of several workspaces.

use threadrunner_core::protocol::{SessionList, SessionRecord};
use threadrunner_core::{
    ErrorCode, Failure, JobId, SessionFile, SessionName, WorkspaceName, json_length,
};

use crate::{Chain, Reader, Result, WorkspaceError, by_time};

/// A session that was found: its current state, or why its file cannot be used.
struct Found<'a> {
    workspace: &'a WorkspaceName,
    reader: &'a Reader,
    name: SessionName,
    file: std::result::Result<SessionFile, String>,
}

impl Found<'_> {
    fn last(&self) -> Option<&JobId> {
        self.file.as_ref().ok().and_then(SessionFile::last)
    }
}

/// Lists at most `limit` sessions of these workspaces, most recently used first. Stops after the
/// record that brings the list to `bytes` bytes of JSON. Each workspace comes with its name.
///
/// # Errors
/// [`WorkspaceError::Io`].
pub fn list_sessions<'a>(
    among: impl IntoIterator<Item = (&'a WorkspaceName, &'a Reader)>,
    limit: usize,
    bytes: usize,
) -> Result<SessionList> {
    let mut found = Vec::new();
    for (workspace, reader) in among {
        for name in reader.session_names()? {
            let file = match reader.session(&name) {
                Ok(Some(file)) => Ok(file),
                Ok(None) => continue,
                Err(error @ WorkspaceError::UnfitSession { .. }) => Err(error.to_string()),
                Err(error) => return Err(error),
            };
            found.push(Found { workspace, reader, name, file });
        }
    }
    found.sort_by(|a, b| match (a.last(), b.last()) {
        (Some(a), Some(b)) => by_time(b, a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    let mut list = SessionList { sessions: Vec::new(), more: found.len() > limit };
    let mut length = 0;
    for found in found.into_iter().take(limit) {
        if length >= bytes {
            list.more = true;
            break;
        }
        let record = match found.file {
            Ok(file) => found.reader.session_record(found.name, file, found.workspace)?.0,
            Err(error) => {
                let error = Some(Failure::new(ErrorCode::Io, error));
                SessionRecord { error, ..blank(found.name, found.workspace) }
            }
        };
        length += json_length(&record);
        list.sessions.push(record);
    }
    Ok(list)
}

impl Reader {
    /// Describes a session of this workspace, which is called `workspace`, and returns its turns
    /// too.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn session_record(
        &self,
        name: SessionName,
        file: SessionFile,
        workspace: &WorkspaceName,
    ) -> Result<(SessionRecord, Chain)> {
        let chain = match &file.head {
            Some(head) => self.chain(head)?,
            None => Chain::default(),
        };
        let mut record = blank(name, workspace);
        // Its job may be gone. Then these fields stay empty.
        if let Some(last) = file.last()
            && let (Ok(spec), Ok(job)) = (self.spec(last), self.record(last))
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
}

fn blank(session: SessionName, workspace: &WorkspaceName) -> SessionRecord {
    SessionRecord {
        session,
        workspace: workspace.clone(),
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
