//! Lists the jobs of a state by reading its directory.

use std::cmp::Ordering;
use std::os::fd::BorrowedFd;

use rustix::fs::FileType;
use threadrunner_core::{JobId, JobState};

use crate::layout::{Layout, kind, open_dir};
use crate::order::{by_time, names_by_time};
use crate::{Result, WorkspaceError};

/// Calls `each` with the name of every directory in a state, in no particular order. `each` checks
/// that the name is an id: parsing a hundred thousand only to drop them takes time.
pub(crate) fn for_each_name(
    layout: &Layout,
    state: JobState,
    mut each: impl FnMut(&str),
) -> Result<()> {
    let dir = layout.dir(state);
    for_each_entry(dir, |name, entry_kind| {
        let is_dir = match entry_kind {
            FileType::Directory => true,
            // Some file systems do not report the type.
            FileType::Unknown => kind(dir, name) == Some(FileType::Directory),
            _ => false,
        };
        if is_dir {
            each(name);
        }
    })
    .map_err(|error| WorkspaceError::io("list", layout.path(state), error))
}

/// The ids of the jobs in a state, oldest first.
pub(crate) fn ids(layout: &Layout, state: JobState) -> Result<Vec<JobId>> {
    let mut ids = Vec::new();
    // Names that are not ids are not ours.
    for_each_name(layout, state, |name| ids.extend(JobId::parse(name)))?;
    ids.sort_unstable_by(by_time);
    Ok(ids)
}

/// The newest jobs in a state, newest first; only those older than `before`, if given.
pub(crate) fn newest(
    layout: &Layout,
    state: JobState,
    before: Option<&JobId>,
    limit: usize,
) -> Result<Vec<JobId>> {
    let mut kept: Vec<JobId> = Vec::new();
    let keep_newest = |kept: &mut Vec<JobId>| {
        kept.sort_unstable_by(|a, b| by_time(b, a));
        kept.truncate(limit);
    };
    // Gather twice as many as wanted before dropping the older half, so that each name costs little
    // more than one comparison with the oldest one kept.
    let mut full = false;
    for_each_name(layout, state, |name| {
        let too_old = full
            && kept
                .get(limit.wrapping_sub(1))
                .is_none_or(|oldest| names_by_time(name, oldest.as_str()) == Ordering::Less);
        let too_new = before.is_some_and(|id| names_by_time(name, id.as_str()) != Ordering::Less);
        if too_old || too_new {
            return;
        }
        kept.extend(JobId::parse(name));
        if kept.len() >= limit.saturating_mul(2).max(64) {
            keep_newest(&mut kept);
            full = true;
        }
    })?;
    keep_newest(&mut kept);
    Ok(kept)
}

/// Calls `each` with every entry of a directory whose name is UTF-8.
#[cfg(target_os = "linux")]
pub(crate) fn for_each_entry(
    dir: BorrowedFd<'_>,
    mut each: impl FnMut(&str, FileType),
) -> rustix::io::Result<()> {
    // A handle of our own: the read position belongs to the open directory, which others use too.
    let dir = open_dir(dir, ".")?;
    // Large, because each refill costs a system call: 100,000 names take 50.
    let mut buffer = Vec::with_capacity(128 << 10);
    let mut entries = rustix::fs::RawDir::new(&dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && !matches!(name, "." | "..")
        {
            each(name, entry.file_type());
        }
    }
    Ok(())
}

/// Calls `each` with every entry of a directory whose name is UTF-8.
#[cfg(not(target_os = "linux"))]
pub(crate) fn for_each_entry(
    dir: BorrowedFd<'_>,
    mut each: impl FnMut(&str, FileType),
) -> rustix::io::Result<()> {
    let dir = open_dir(dir, ".")?;
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && !matches!(name, "." | "..")
        {
            each(name, entry.file_type());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_several_programs_are_ordered_by_their_time() {
        let mut ids: Vec<JobId> = [
            "1736700000123456_7",
            "00001736700000123455_9_000001",
            "1736700000123457_7",
            "99_1_0",
            "00001736700000123458_9_000000",
            "0",
        ]
        .map(|text| JobId::parse(text).unwrap())
        .into();
        ids.sort_by(by_time);
        let texts: Vec<_> = ids.iter().map(JobId::as_str).collect();
        assert_eq!(
            texts,
            [
                "0",
                "99_1_0",
                "00001736700000123455_9_000001",
                "1736700000123456_7",
                "1736700000123457_7",
                "00001736700000123458_9_000000",
            ]
        );
    }
}
