//! `cancel`: cancels a queued or running job.

use threadrunner_core::protocol::{JobQuery, ask};
use threadrunner_core::{ErrorCode, Failure};

use super::Stop;
use super::job::record;
use crate::answer::Answer;
use crate::context::Context;
use crate::jobs::{Awaited, Ending};

pub(super) async fn cancel(
    context: &Context,
    query: JobQuery,
    answer: &Answer,
) -> Result<(), Stop> {
    let job = context.find(query).await?;
    context.watch(&job, Awaited::End).await?;
    let Some(mut view) = context.hub.cancel(&job, Ending::Canceled).await? else {
        let record = record(context, &job).await?;
        let id = job.id;
        let failure = Failure::new(
            ErrorCode::WrongState,
            format!("job {id} cannot be canceled: it is {}", record.state),
        );
        answer.fail(failure, Some(id)).await?;
        return Ok(());
    };
    let _ = view.wait_for(|view| view.end.is_some()).await;
    let _turn = answer.turn().await?;
    answer.data::<ask::Cancel>(&record(context, &job).await?).await?;
    Ok(())
}
