//! `[retention]`: removes old jobs in the background.
//!
//! One task per workspace that has limits. It sleeps until a job ends or the oldest job is due, so
//! an idle daemon stays idle. It scans on a thread of low priority, and removes a few jobs at a
//! time so that others do not have to wait.

use std::time::{Duration, SystemTime};

use threadrunner_core::{ErrorCode, Failure};
use threadrunner_home::RetentionConfig;
use threadrunner_workspace::{NotKept, Reader, Retention};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::clock::{Clock, steady_now};
use crate::workspaces::Served;

/// Jobs that ended this recently are kept: those who waited for one have yet to read its answer.
const SPARED: Duration = Duration::from_secs(60);
/// The minimum pause between two scans.
const REST: Duration = Duration::from_secs(10);
/// The pause as a multiple of the last scan's duration, so that scanning takes at most a hundredth
/// of the time however many jobs there are.
const REST_FACTOR: u32 = 100;

/// Keeps a workspace within its limits for as long as the daemon lives.
pub(crate) async fn keep(workspace: Served) {
    let config = workspace.settings.retention;
    let mut ended = workspace.archive.ended();
    let mut clock = Clock::new(SystemTime::now(), steady_now());
    while config.limits() {
        let began = Instant::now();
        let now = SystemTime::now();
        let doubt = clock.look(now, steady_now());
        if !doubt.other.is_zero() {
            sleep_until(began + doubt.other).await;
            continue;
        }
        let waits = config.max_age.is_some() && !doubt.age.is_zero();
        let for_now = match waits {
            true => RetentionConfig { max_age: None, ..config },
            false => config,
        };
        let next = match look_and_remove(&workspace, for_now, now).await {
            Ok(next) if waits => Some(next.map_or(doubt.age, |next| next.min(doubt.age))),
            Ok(next) => next,
            Err(failure) => {
                let name = &workspace.settings.name;
                tracing::warn!(workspace = %name, %failure, "cannot remove old jobs");
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
        // The next scan covers what ended during the pause.
        ended.mark_unchanged();
    }
}

/// Removes jobs beyond the limits. Returns how long until the next one is due, if known.
async fn look_and_remove(
    workspace: &Served,
    config: RetentionConfig,
    now: SystemTime,
) -> Result<Option<Duration>, Failure> {
    let found = look(workspace.reader.clone(), retention(config), now).await?;
    if !found.jobs.is_empty() {
        let removed = workspace.archive.remove_all(&found.jobs).await?;
        let name = &workspace.settings.name;
        tracing::info!(workspace = %name, jobs = removed.jobs.len(), "removed by [retention]");
        if let Some(first) = removed.failed.first() {
            let (jobs, error) = (removed.failed.len(), &first.error);
            tracing::warn!(workspace = %name, jobs, %error, "[retention] cannot remove jobs");
        }
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

/// Scans all ended jobs on a thread of the lowest priority.
async fn look(reader: Reader, retention: Retention, now: SystemTime) -> Result<NotKept, Failure> {
    let (tell, told) = oneshot::channel();
    let look = move || {
        // On Linux, niceness is per thread.
        let _ = rustix::process::nice(19);
        let found = reader.not_kept(&retention, now);
        // The receiver may be gone when the daemon stops.
        let _ = tell.send(found.map_err(Failure::from));
    };
    let thread = std::thread::Builder::new().name("retention".to_owned()).spawn(look);
    thread.map_err(|error| {
        Failure::new(ErrorCode::Io, format!("cannot start a thread to look for old jobs: {error}"))
    })?;
    told.await.map_err(|_| Failure::new(ErrorCode::Internal, "the search for old jobs panicked"))?
}
