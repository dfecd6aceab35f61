//! `stop`: stops the daemon.

use threadrunner_core::protocol::{Stopping, ask};

use super::Stop;
use crate::answer::Answer;
use crate::context::Context;

pub(super) async fn stop(context: &Context, now: bool, answer: &Answer) -> Result<(), Stop> {
    // Answer first: stopping closes this connection.
    answer.data::<ask::Stop>(&Stopping { stopping: true, pid: std::process::id() }).await?;
    context.hub.stop(now).await?;
    Ok(())
}
