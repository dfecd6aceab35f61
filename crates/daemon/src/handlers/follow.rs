//! `follow`: streams a job's answer from its beginning, whatever the job's state.

use threadrunner_core::protocol::{FollowQuery, ReplyBody};
use threadrunner_core::{Failure, JobId, JobStatus};
use threadrunner_workspace::Reader;

use super::Stop;
use super::result::{text, with_frame};
use super::stream::{Style, end_frame, error_frame, stream_on};
use crate::answer::Answer;
use crate::context::Context;
use crate::jobs::{Awaited, Done, job_failure};
use crate::workspaces::Located;

pub(super) async fn follow(
    context: &Context,
    query: FollowQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let job = context.find(query.query).await?;
    let whole = query.stream == Some(false);
    let awaited = if whole { Awaited::End } else { Awaited::Text };
    if let Some(view) = context.watch(&job, awaited).await? {
        let nothing_yet = view.borrow().text.is_empty();
        let said = if nothing_yet { said_earlier(&job).await? } else { String::new() };
        return stream_on(view, answer, Style { events: true, places: !whole, whole }, said).await;
    }
    let _turn = answer.turn().await?;
    let bytes = job.read(|reader, id| Ok(reader.answer_bytes(id)?)).await?;
    let room = answer.room(with_frame(bytes)).await?;
    let (record, text, output) = job
        .read(|reader, id| {
            let record = reader.record(id)?;
            // For a failed job, the answer up to the failure.
            Ok((record, text(reader.partial(id, 0)?.bytes), reader.output(id)?))
        })
        .await?;
    let mut frames: Vec<ReplyBody> = Vec::new();
    if !text.is_empty() {
        frames.push(ReplyBody::Token { token: text, eos: false });
    }
    if record.state == JobStatus::Done {
        let done = Done {
            model: record.meta.model.clone().unwrap_or_default(),
            finish_reason: record
                .meta
                .finish_reason
                .unwrap_or(threadrunner_core::FinishReason::Stop),
            usage: record.meta.usage.unwrap_or_default(),
            timings: record.meta.timings.unwrap_or_default(),
        };
        frames.push(end_frame(&record.job, &done, output));
    } else {
        frames.push(error_frame(job_failure(&record), record.job.clone()));
    }
    answer.send_in(frames, room).await?;
    Ok(())
}

/// Reads the partial answer on disk of an attempt that was cut short, perhaps by the end of a
/// daemon.
async fn said_earlier(job: &Located) -> Result<String, Failure> {
    // Text that cannot be read is not shown; the answer itself will come anyway.
    let read =
        |reader: &Reader, id: &JobId| Ok(reader.partial(id, 0).map_or(Vec::new(), |it| it.bytes));
    let bytes = job.read(read).await?;
    // Drop a character that was cut short.
    Ok(bytes.utf8_chunks().next().map_or(String::new(), |whole| whole.valid().to_owned()))
}
