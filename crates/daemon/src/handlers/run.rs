//! `run` and the simplest form of a request: run a job and stream its answer to the client.

use threadrunner_core::protocol::Submission;

use super::stream::{Style, stream};
use super::{Stop, submit};
use crate::answer::Answer;
use crate::context::Context;
use crate::jobs::{Awaited, Ending};

pub(super) async fn run(
    context: &Context,
    submission: Submission,
    answer: &Answer,
) -> Result<(), Stop> {
    let whole = submission.stream == Some(false);
    let detached = submission.detach;
    let style = Style { events: true, places: !(detached && whole), whole };
    begin(context, submission, answer, style, detached).await
}

pub(super) async fn simple(
    context: &Context,
    submission: Submission,
    answer: &Answer,
) -> Result<(), Stop> {
    let whole = submission.stream == Some(false);
    begin(context, submission, answer, Style { events: false, places: false, whole }, false).await
}

async fn begin(
    context: &Context,
    submission: Submission,
    answer: &Answer,
    style: Style,
    detached: bool,
) -> Result<(), Stop> {
    let job = submit::new_job(context, submission, !detached, answer).await?;
    let workspace = job.workspace;
    let awaited = if style.whole { Awaited::End } else { Awaited::Text };
    let view = context.hub.submit_attached(job, awaited).await?;
    let id = view.borrow().id.clone();
    let streamed = stream(view, answer, style).await;
    if let Err(Stop::Gone) = &streamed
        && !detached
    {
        context.hub.end(workspace, id, Ending::ClientGone).await?;
    }
    streamed
}
