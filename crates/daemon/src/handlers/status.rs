//! `status`: reports the daemon's state.

use std::time::SystemTime;

use threadrunner_core::protocol::{DaemonStatus, VERSIONS, ask};
use threadrunner_home::utc_date;

use super::Stop;
use crate::answer::Answer;
use crate::context::Context;
use crate::memory;

pub(super) async fn status(context: &Context, answer: &Answer) -> Result<(), Stop> {
    let (list, stopping) = context.hub.status().await?;
    let pid = std::process::id();
    let status = DaemonStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocols: VERSIONS.to_vec(),
        pid,
        uptime_s: context.started.elapsed().as_secs_f64(),
        home: context.home.root.clone(),
        socket: context.home.socket.clone(),
        workspace: context.home.workspace.clone(),
        workspaces: context.workspaces.status().await,
        log: context.home.log_file(&utc_date(SystemTime::now())),
        memory_bytes: memory::resident_bytes(pid),
        queued: list.queued,
        held: list.held,
        running: u32::try_from(list.running.len()).unwrap_or(u32::MAX),
        memory_budget: list.memory_budget,
        memory_used: list.memory_used,
        models: list.models,
        stopping,
        other: serde_json::Map::new(),
    };
    answer.data::<ask::Status>(&status).await?;
    Ok(())
}
