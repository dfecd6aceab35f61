//! The newest jobs in a state, from what is remembered of it or from its directory.

use std::sync::{MutexGuard, PoisonError};

use threadrunner_core::{JobId, JobState};

use crate::layout::Layout;
use crate::listing;
use crate::recent::{Change, Changed, Known, Names, REMEMBERED, STATES};
use crate::{Result, WorkspaceError};

/// The newest jobs in a state, newest first.
pub(crate) fn newest(layout: &Layout, state: JobState, limit: usize) -> Result<Vec<JobId>> {
    let Some(of) = layout.recent().of(state) else {
        return listing::newest(layout, state, None, limit);
    };
    if let Some(found) = of.remembered(changed(layout, state)?, limit) {
        return Ok(found);
    }
    let _reading = of.reading.lock().unwrap_or_else(PoisonError::into_inner);
    let changed = changed(layout, state)?;
    if let Some(found) = of.remembered(changed, limit) {
        return Ok(found);
    }
    {
        let mut known = of.known();
        *known = Known::reading(changed);
    }
    let wanted = limit.max(REMEMBERED);
    let listed = listing::newest(layout, state, None, wanted);
    let mut known = of.known();
    let meanwhile = known.meanwhile.take();
    let mut newest = listed?;
    let all = newest.len() < wanted;
    newest.reverse();
    let mut names = Names { newest, all };
    let undisturbed = meanwhile.is_some();
    for change in meanwhile.into_iter().flatten() {
        names.apply(change);
    }
    let found = names.last(limit);
    if undisturbed {
        names.forget_the_oldest();
        known.names = Some(names);
    }
    Ok(found)
}

/// Makes a change that moves a job from one state to another, and notes it.
pub(crate) fn note(
    layout: &Layout,
    id: &JobId,
    (from, to): (JobState, JobState),
    change: impl FnOnce() -> std::io::Result<()>,
) -> std::io::Result<()> {
    // Always lock in the order of the states, to avoid a deadlock.
    let mut notes: Vec<(JobState, MutexGuard<'_, Known>)> = STATES
        .into_iter()
        .filter(|state| [from, to].contains(state))
        .filter_map(|state| Some((state, layout.recent().of(state)?.known())))
        .collect();
    for (state, known) in &mut notes {
        known.check(changed(layout, *state).ok());
    }
    change()?;
    for (state, known) in &mut notes {
        known.note(if *state == to { Change::Came(id.clone()) } else { Change::Went(id.clone()) });
        known.changed = changed(layout, *state).ok();
    }
    Ok(())
}

/// Notes that another program put a job into a state, if it is still there: the report may be
/// late, and this process may have moved the job on.
pub(crate) fn came(layout: &Layout, id: &JobId, state: JobState) {
    let Some(of) = layout.recent().of(state) else { return };
    let mut known = of.known();
    if layout.job_path(state, id).exists() {
        layout.recent().arrived(id);
        known.note(Change::Came(id.clone()));
    }
}

fn changed(layout: &Layout, state: JobState) -> Result<Changed> {
    let stat = rustix::fs::fstat(layout.dir(state))
        .map_err(|error| WorkspaceError::io("look at", layout.path(state), error))?;
    // Wide enough for every system.
    Ok((i128::from(stat.st_mtime), i128::from(stat.st_mtime_nsec)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Disk;
    use crate::staged;
    use tempfile::TempDir;

    const MANY: usize = 2 * REMEMBERED + 100;

    struct Story {
        layout: Layout,
        _temp: TempDir,
    }

    fn id(number: usize) -> JobId {
        JobId::parse(&format!("{:016}_7", 1_700_000_000_000_000 + number)).unwrap()
    }

    impl Story {
        fn with(jobs: usize) -> Self {
            // In memory if possible, because there are many.
            let temp = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
            let layout = Layout::create(temp.path(), &Disk).unwrap();
            let story = Self { layout, _temp: temp };
            (0..jobs).for_each(|number| story.put(number, JobState::Done));
            story
        }

        /// As another program does it: nothing in this process is told.
        fn put(&self, number: usize, state: JobState) {
            std::fs::create_dir(self.layout.job_path(state, &id(number))).unwrap();
        }

        fn finish(&self, number: usize) {
            self.put(number, JobState::Processing);
            let (from, to) = (JobState::Processing, JobState::Done);
            staged::move_job(&self.layout, &Disk, &id(number), from, to).unwrap();
        }

        fn check(&self, limit: usize) {
            for state in STATES {
                let found = newest(&self.layout, state, limit).unwrap();
                let there = listing::newest(&self.layout, state, None, limit).unwrap();
                assert_eq!(found, there, "{state}, {limit}");
            }
        }

        fn remembers(&self) -> bool {
            let changed = changed(&self.layout, JobState::Done).unwrap();
            self.layout.recent().of(JobState::Done).unwrap().remembered(changed, 20).is_some()
        }
    }

    #[test]
    fn what_is_remembered_is_what_is_there() {
        let story = Story::with(MANY);
        for limit in [0, 1, 20, REMEMBERED, REMEMBERED + 1, MANY, 2 * MANY] {
            story.check(limit);
        }
        assert!(story.remembers());
    }

    #[test]
    fn own_changes_are_noted_and_cost_no_reading() {
        let story = Story::with(MANY);
        story.check(20);
        for number in (MANY..MANY + 3 * REMEMBERED).chain([MANY + 4 * REMEMBERED]) {
            story.finish(number);
        }
        assert!(story.remembers());
        story.check(20);
        // Late changes, before and between all that are remembered.
        let layout = &story.layout;
        staged::move_job(layout, &Disk, &id(MANY), JobState::Done, JobState::Ready).unwrap_err();
        for number in [MANY + 4 * REMEMBERED, MANY + 10, 5] {
            staged::withdraw(layout, &Disk, JobState::Done, &id(number)).unwrap();
            assert!(story.remembers());
            story.check(20);
            story.finish(number);
            story.check(20);
        }
        story.check(REMEMBERED);
    }

    #[test]
    fn more_than_is_left_of_what_was_remembered_is_read_again() {
        let story = Story::with(MANY);
        story.check(20);
        for number in (0..MANY).rev().take(REMEMBERED - 10) {
            staged::withdraw(&story.layout, &Disk, JobState::Done, &id(number)).unwrap();
        }
        story.check(20);
    }

    #[test]
    fn what_others_change_is_seen() {
        let story = Story::with(30);
        story.check(20);
        std::fs::remove_dir(story.layout.job_path(JobState::Done, &id(29))).unwrap();
        // Visible even if the file system's clock is coarse.
        let touch = |seconds| {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            let dir = std::fs::File::open(story.layout.path(JobState::Done)).unwrap();
            dir.set_modified(time).unwrap();
        };
        touch(1);
        story.check(20);
        story.put(31, JobState::Done);
        touch(2);
        // Noting a change of our own must not make the others' changes look known.
        story.finish(32);
        story.check(20);
    }

    #[test]
    fn an_arrival_is_seen_within_the_same_tick() {
        let story = Story::with(0);
        story.check(20);
        story.put(1, JobState::Ready);
        // As if the directory's time had not changed.
        let now = changed(&story.layout, JobState::Ready).unwrap();
        story.layout.recent().of(JobState::Ready).unwrap().known().changed = Some(now);
        came(&story.layout, &id(1), JobState::Ready);
        story.check(20);
    }

    #[test]
    fn an_arrival_told_after_the_job_has_moved_on_is_none() {
        let story = Story::with(0);
        story.put(1, JobState::Ready);
        story.check(20);
        let (from, to) = (JobState::Ready, JobState::Processing);
        staged::move_job(&story.layout, &Disk, &id(1), from, to).unwrap();
        came(&story.layout, &id(1), JobState::Ready);
        story.check(20);
    }

    #[test]
    fn changes_while_the_directory_is_read_are_not_missed() {
        let story = Story::with(MANY);
        std::thread::scope(|scope| {
            let finishing = scope.spawn(|| {
                for number in MANY..MANY + 500 {
                    story.finish(number);
                }
            });
            while !finishing.is_finished() {
                newest(&story.layout, JobState::Done, 20).unwrap();
                // Read again while other jobs move.
                story.layout.recent().of(JobState::Done).unwrap().known().names = None;
            }
        });
        story.check(20);
        story.check(REMEMBERED);
    }
}
