//! `stop`: end the daemon.

use super::Stop;
use crate::connection::Answer;
use crate::context::Context;

pub(super) async fn stop(context: &Context, now: bool, answer: &Answer) -> Result<(), Stop> {
    // Answered first: the order ends this connection too.
    answer.data(&serde_json::json!({ "stopping": true, "pid": std::process::id() })).await?;
    context.hub.stop(now).await?;
    Ok(())
}
