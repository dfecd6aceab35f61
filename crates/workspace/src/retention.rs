//! Selects the ended jobs to remove.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType};
use threadrunner_core::{JobId, JobState, micros_since_epoch};

use crate::layout::{Layout, open_dir};
use crate::{Result, listing};

/// Which ended jobs to keep: those within every limit that is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Remove jobs that ended longer ago than this.
    pub max_age: Option<Duration>,
    /// Remove the oldest jobs until at most this many are left.
    pub max_count: Option<usize>,
    /// Remove the oldest jobs until the others take up at most this many bytes on the disk.
    pub max_bytes: Option<u64>,
    /// Keep failed and canceled jobs, and do not count them.
    pub keep_failed: bool,
    /// Keep jobs that ended less than this long ago, whatever the limits say.
    pub spared: Duration,
}

/// The jobs that a [`Retention`] does not keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotKept {
    /// The jobs, oldest first.
    pub jobs: Vec<JobId>,
    /// How long until the next one, if no more jobs end.
    pub next: Option<Duration>,
}

/// How many levels of directories count towards the size of a job.
const DEPTH: u32 = 4;

impl Retention {
    pub(crate) fn not_kept(&self, layout: &Layout, now: SystemTime) -> Result<NotKept> {
        if self.max_age.is_none() && self.max_count.is_none() && self.max_bytes.is_none() {
            return Ok(NotKept::default());
        }
        let mut ended = listing::ids(layout, JobState::Done)?;
        if !self.keep_failed {
            ended.append(&mut listing::ids(layout, JobState::Failed)?);
            ended.sort_unstable_by(crate::by_time);
        }
        let too_many = ended.len().saturating_sub(self.max_count.unwrap_or(usize::MAX));
        let too_large = self.max_bytes.map_or(0, |most| over(layout, &ended, most));
        let surplus = too_many.max(too_large);
        let now = Duration::from_micros(micros_since_epoch(now));
        let mut next: Option<Duration> = None;
        let mut index = 0;
        ended.retain(|id| {
            let is_surplus = index < surplus;
            index += 1;
            // A job that is gone by now needs no removal.
            let Some(at) = ended_at(layout, id) else { return false };
            let age = now.saturating_sub(at);
            let most = if is_surplus { Some(Duration::ZERO) } else { self.max_age };
            let Some(most) = most.map(|most| most.max(self.spared)) else { return false };
            if age > most || most.is_zero() {
                return true;
            }
            let left = most - age + Duration::from_millis(1);
            next = Some(next.map_or(left, |next| next.min(left)));
            false
        });
        Ok(NotKept { jobs: ended, next })
    }
}

/// How many of the jobs, oldest first, must go for the others to take up at most `most` bytes.
fn over(layout: &Layout, ended: &[JobId], most: u64) -> usize {
    let mut sum: u64 = 0;
    for (index, id) in ended.iter().enumerate().rev() {
        sum = sum.saturating_add(bytes_of(layout, id));
        if sum > most {
            return index + 1;
        }
    }
    0
}

/// When a job ended, since 1970. Its `meta.json`, written when it ends, is the last change in its
/// directory. Asking for the directory's time is a hundred times cheaper than reading that file.
fn ended_at(layout: &Layout, id: &JobId) -> Option<Duration> {
    [JobState::Done, JobState::Failed].into_iter().find_map(|state| {
        let dir = layout.dir(state);
        let stat = rustix::fs::statat(dir, id.as_str(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Some(Duration::new(u64::try_from(stat.st_mtime).unwrap_or(0), nanoseconds))
    })
}

/// What a job's directory takes up on the disk, itself included, in bytes.
fn bytes_of(layout: &Layout, id: &JobId) -> u64 {
    let sizes = [JobState::Done, JobState::Failed]
        .map(|state| disk_bytes(layout.dir(state), id.as_str(), DEPTH));
    sizes.into_iter().sum()
}

fn disk_bytes(parent: BorrowedFd<'_>, name: &str, depth: u32) -> u64 {
    // What cannot be read, or is gone by now, counts as 0.
    let Ok(stat) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else { return 0 };
    let mut bytes = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    if depth > 0
        && FileType::from_raw_mode(stat.st_mode) == FileType::Directory
        && let Ok(dir) = open_dir(parent, name)
    {
        let _ = listing::for_each_entry(dir.as_fd(), |name, _| {
            bytes = bytes.saturating_add(disk_bytes(dir.as_fd(), name, depth - 1));
        });
    }
    bytes
}
