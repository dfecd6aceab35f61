//! The jobs in a state, from its directory.

use std::cmp::Ordering;
use std::os::fd::BorrowedFd;

use rustix::fs::FileType;
use threadrunner_core::{JobId, JobState};

use crate::layout::{Layout, kind, open_dir};
use crate::{Result, WorkspaceError};

/// Orders ids by time: by the number that they begin with, then by name.
///
/// Name order is time order among ids of one program. nrvna-ai writes the same microseconds with
/// more zeros before them, so among ids of several programs it is not.
pub fn by_time(a: &JobId, b: &JobId) -> Ordering {
    let key = |id: &JobId| {
        let text = id.as_str();
        let end = text.find('_').unwrap_or(text.len());
        let zeros = text[..end].bytes().take_while(|&byte| byte == b'0').count();
        (zeros, end)
    };
    let ((a_zeros, a_end), (b_zeros, b_end)) = (key(a), key(b));
    let (a_number, b_number) = (&a.as_str()[a_zeros..a_end], &b.as_str()[b_zeros..b_end]);
    (a_number.len().cmp(&b_number.len()))
        .then_with(|| a_number.cmp(b_number))
        .then_with(|| a.cmp(b))
}

/// Calls `each` with the id of every job in a state, in no order.
pub(crate) fn for_each_id(
    layout: &Layout,
    state: JobState,
    mut each: impl FnMut(JobId),
) -> Result<()> {
    let dir = layout.dir(state);
    for_each_entry(dir, |name, entry_kind| {
        // Names outside the id rule are none of ours.
        let Ok(id) = JobId::parse(name) else { return };
        let is_dir = match entry_kind {
            FileType::Directory => true,
            // Some file systems do not say.
            FileType::Unknown => kind(dir, name) == Some(FileType::Directory),
            _ => false,
        };
        if is_dir {
            each(id);
        }
    })
    .map_err(|error| WorkspaceError::io("list", layout.path(state), error))
}

/// The ids of the jobs in a state, oldest first.
pub(crate) fn ids(layout: &Layout, state: JobState) -> Result<Vec<JobId>> {
    let mut ids = Vec::new();
    for_each_id(layout, state, |id| ids.push(id))?;
    ids.sort_unstable_by(by_time);
    Ok(ids)
}

/// Calls `each` with every entry of a directory whose name is UTF-8.
#[cfg(target_os = "linux")]
pub(crate) fn for_each_entry(
    dir: BorrowedFd<'_>,
    mut each: impl FnMut(&str, FileType),
) -> rustix::io::Result<()> {
    // Of its own: where reading stands belongs to the open directory, which others use too.
    let dir = open_dir(dir, ".")?;
    // Large, because each refill costs a system call: 100,000 names are 50 of them.
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
