//! `session`: sends the history of a conversation.

use threadrunner_core::protocol::{Conversation, SessionQuery, TurnRecord, ask};
use threadrunner_core::{
    ErrorCode, Failure, JobId, MAX_FRAME_BYTES, SessionFile, SessionName, json_length,
};
use threadrunner_workspace::Reader;

use super::Stop;
use crate::answer::Answer;
use crate::blocking::blocking;
use crate::context::Context;
use crate::store::{no_such_session, read_turn};
use crate::workspaces::Served;

pub(super) async fn session(
    context: &Context,
    query: SessionQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let among = context.among(query.workspace.as_ref()).await?;
    let conversation = blocking(move || {
        let (workspace, file) = find(&query.session, among)?;
        read(query.session, file, &workspace)
    });
    let room = answer.room(2 * MAX_FRAME_BYTES).await?;
    answer.data_in::<ask::Session>(conversation.await?, room).await?;
    Ok(())
}

/// Finds a session by name in any of these workspaces.
pub(super) fn find(
    name: &SessionName,
    among: Vec<Served>,
) -> Result<(Served, SessionFile), Failure> {
    let mut found: Vec<(Served, SessionFile)> = Vec::new();
    for workspace in among {
        if let Some(file) = workspace.reader.session(name)? {
            found.push((workspace, file));
        }
    }
    match (found.pop(), found.pop()) {
        (None, _) => Err(no_such_session(name)),
        (Some(only), None) => Ok(only),
        (Some((second, _)), Some((first, _))) => Err(Failure::new(
            ErrorCode::AmbiguousId,
            format!(
                "session '{name}' exists in both '{}' and '{}'",
                first.settings.name, second.settings.name
            ),
        )
        .hint("name the workspace with -w")),
    }
}

fn read(name: SessionName, file: SessionFile, workspace: &Served) -> Result<Conversation, Failure> {
    let (record, chain) = workspace.reader.session_record(name, file, &workspace.settings.name)?;
    let mut conversation = Vec::new();
    let mut bytes = 0;
    for id in chain.turns {
        let turn = turn(id, &workspace.reader)?;
        bytes += json_length(&turn);
        if bytes > MAX_FRAME_BYTES {
            return Err(Failure::new(
                ErrorCode::ContextExceeded,
                format!(
                    "session '{}' cannot be sent: it has more than {MAX_FRAME_BYTES} bytes",
                    record.session
                ),
            )
            .hint("its turns are jobs: `threadrunner result` prints each answer"));
        }
        conversation.push(turn);
    }
    Ok(Conversation { conversation, record })
}

fn turn(job: JobId, reader: &Reader) -> Result<TurnRecord, Failure> {
    let turn = read_turn(&job, reader)?;
    let meta = reader.record(&job)?.meta;
    Ok(TurnRecord::new(job, turn, meta))
}
