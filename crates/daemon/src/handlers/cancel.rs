//! `cancel`: end a job, queued or running.

use threadrunner_core::protocol::JobQuery;
use threadrunner_core::{ErrorCode, Failure};

use super::{Stop, job};
use crate::connection::Answer;
use crate::context::Context;
use crate::jobs::Ending;

pub(super) async fn cancel(
    context: &Context,
    query: JobQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let id = context.find(query).await?;
    context.watch(&id).await?;
    let Some(mut view) = context.hub.cancel(id.clone(), Ending::Canceled).await? else {
        let record = job::record(context, id.clone()).await?;
        let failure = Failure::new(
            ErrorCode::WrongState,
            format!("job {id} cannot be canceled: it is {}", record.state),
        );
        answer.fail(failure, Some(id)).await?;
        return Ok(());
    };
    let _ = view.wait_for(|view| view.end.is_some()).await;
    answer.data(&job::record(context, id).await?).await?;
    Ok(())
}
