//! `wait`: waits for a job to end, then sends its record.

use threadrunner_core::protocol::{JobQuery, ask};

use super::Stop;
use super::job::record;
use crate::answer::Answer;
use crate::context::Context;
use crate::jobs::Awaited;

pub(super) async fn wait(context: &Context, query: JobQuery, answer: &Answer) -> Result<(), Stop> {
    let job = context.find(query).await?;
    if let Some(mut view) = context.watch(&job, Awaited::End).await? {
        tokio::select! {
            // An error means that the owner is gone; the job is still on disk.
            _ = view.wait_for(|view| view.end.is_some()) => {}
            () = answer.gone() => return Err(Stop::Gone),
        }
    }
    let _turn = answer.turn().await?;
    answer.data::<ask::Wait>(&record(context, &job).await?).await?;
    Ok(())
}
