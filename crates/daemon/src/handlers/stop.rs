//! `stop`: stops the daemon.

use super::Stop;
use crate::connection::Answer;
use crate::context::Context;

pub(super) async fn stop(context: &Context, now: bool, answer: &Answer) -> Result<(), Stop> {
    // Answer first: stopping closes this connection.
    answer.data(&serde_json::json!({ "stopping": true, "pid": std::process::id() })).await?;
    context.hub.stop(now).await?;
    Ok(())
}
