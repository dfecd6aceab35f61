//! `run` and the simplest form: run a job and stream its answer to the client that waits for it.

use threadrunner_core::protocol::Submission;

use super::stream::{Style, stream};
use super::{Stop, submit};
use crate::connection::Answer;
use crate::context::Context;
use crate::jobs::Ending;

pub(super) async fn run(
    context: &Context,
    submission: Submission,
    answer: &Answer,
) -> Result<(), Stop> {
    let whole = submission.stream == Some(false);
    attached(context, submission, answer, Style { events: true, whole }).await
}

pub(super) async fn simple(
    context: &Context,
    submission: Submission,
    answer: &Answer,
) -> Result<(), Stop> {
    let whole = submission.stream == Some(false);
    attached(context, submission, answer, Style { events: false, whole }).await
}

async fn attached(
    context: &Context,
    submission: Submission,
    answer: &Answer,
    style: Style,
) -> Result<(), Stop> {
    let job = submit::new_job(context, submission, true)?;
    let workspace = job.workspace;
    let view = context.hub.submit_attached(job).await?;
    let id = view.borrow().id.clone();
    let streamed = stream(view, answer, style).await;
    if let Err(Stop::Gone) = &streamed {
        context.hub.end(workspace, id, Ending::ClientGone).await?;
    }
    streamed
}
