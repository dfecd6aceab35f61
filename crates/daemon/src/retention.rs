//! `[retention]`: removing old jobs, beside everything else.
//!
//! A task for each workspace that has limits. It sleeps until a job has ended or the oldest is too
//! old, so that an idle daemon stays idle; it looks on a thread of low priority, and has the jobs
//! removed a few at a time, so that nobody waits for it.

use std::time::{Duration, SystemTime};

use threadrunner_core::{ErrorCode, Failure};
use threadrunner_home::RetentionConfig;
use threadrunner_workspace::{NotKept, Reader, Retention};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::clock::{Clock, steady_now};
use crate::workspaces::Served;

/// A job that ended so short a time ago stays: who waited for it has yet to read its answer.
const SPARED: Duration = Duration::from_secs(60);
/// Between two looks there is at least this,
const REST: Duration = Duration::from_secs(10);
/// and so many times what the last one took: with a million jobs it takes a hundredth of the time.
const REST_FACTOR: u32 = 100;

/// Keeps a workspace within its limits, for as long as the daemon lives.
///
/// `last_change` is when something last happened in it before this daemon.
pub(crate) async fn keep(workspace: Served, last_change: Option<SystemTime>) {
    let config = workspace.settings.retention;
    let mut ended = workspace.archive.ended();
    let mut clock = Clock::new(SystemTime::now(), steady_now(), last_change);
    while config.limits() {
        let began = Instant::now();
        let now = SystemTime::now();
        let doubtful = clock.look(now, steady_now());
        if !doubtful.is_zero() {
            sleep_until(began + doubtful).await;
            continue;
        }
        let next = match look_and_remove(&workspace, config, now).await {
            Ok(next) => next,
            Err(failure) => {
                let name = &workspace.settings.name;
                tracing::warn!(workspace = name, %failure, "old jobs could not be removed");
                None
            }
        };
        let rested = began + began.elapsed().saturating_mul(REST_FACTOR).max(REST);
        let due = async {
            match next {
                Some(next) => sleep_until(Instant::now() + next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = ended.changed() => if changed.is_err() { return },
            () = due => {}
        }
        sleep_until(rested).await;
        // What ended meanwhile is looked at now.
        ended.mark_unchanged();
    }
}

/// Removes what need not be kept; returns when the next is too old, if that is known.
async fn look_and_remove(
    workspace: &Served,
    config: RetentionConfig,
    now: SystemTime,
) -> Result<Option<Duration>, Failure> {
    let found = look(workspace.reader.clone(), retention(config), now).await?;
    if !found.jobs.is_empty() {
        let removed = workspace.archive.remove_all(&found.jobs).await?;
        let name = &workspace.settings.name;
        tracing::info!(workspace = name, jobs = removed.len(), "removed by [retention]");
    }
    Ok(found.next)
}

fn retention(config: RetentionConfig) -> Retention {
    Retention {
        max_age: config.max_age,
        max_count: config.max_jobs.map(|most| usize::try_from(most).unwrap_or(usize::MAX)),
        max_bytes: config.max_bytes,
        keep_failed: config.keep_failed,
        spared: SPARED,
    }
}

/// Looks at all jobs that have ended, on a thread of its own that gives way to all others.
async fn look(reader: Reader, retention: Retention, now: SystemTime) -> Result<NotKept, Failure> {
    let (tell, told) = oneshot::channel();
    let look = move || {
        // On Linux this is the thread's own priority.
        let _ = rustix::process::nice(19);
        let found = reader.not_kept(&retention, now);
        // A daemon that is gone has nobody to be told.
        let _ = tell.send(found.map_err(Failure::from));
    };
    let thread = std::thread::Builder::new().name("retention".to_owned()).spawn(look);
    thread.map_err(|error| {
        Failure::new(ErrorCode::Io, format!("cannot start a thread to look for old jobs: {error}"))
    })?;
    told.await.map_err(|_| Failure::new(ErrorCode::Internal, "the look for old jobs panicked"))?
}
