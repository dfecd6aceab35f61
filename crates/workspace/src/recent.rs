//! Remembers the newest names of the states that can hold very many jobs, so that asking for them
//! does not read a directory of a million names.
//!
//! What this process changes is noted as it happens. What others change shows in the directory's
//! modification time: if it is not that of our last change, everything remembered is forgotten. Two
//! changes within one tick of the file system's clock look like one. The watcher also reports what
//! others put into `input/ready`; a job that they took away is found missing when it is read.

use std::sync::{Mutex, MutexGuard, PoisonError};

use threadrunner_core::{JobId, JobState};

use crate::layout::Layout;
use crate::listing::{self, by_time};
use crate::{Result, WorkspaceError};

/// The minimum number of names to remember of a state, if it has that many.
pub(crate) const REMEMBERED: usize = 1024;

/// The states whose names are remembered. `processing` never holds many.
const STATES: [JobState; 3] = [JobState::Ready, JobState::Done, JobState::Failed];

/// When a directory last changed, in seconds and nanoseconds.
type Changed = (i128, i128);

/// The names remembered of a workspace.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    states: [State; STATES.len()],
}

#[derive(Debug, Default)]
struct State {
    /// Held while reading the directory. Others wait for the result.
    reading: Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    names: Option<Names>,
    /// When the directory last changed, as far as this process knows.
    changed: Option<Changed>,
    /// What this process changes while the directory is being read; `None` once others change it
    /// too.
    meanwhile: Option<Vec<Change>>,
}

#[derive(Debug)]
enum Change {
    Came(JobId),
    Went(JobId),
}

/// The newest names, oldest first.
#[derive(Debug)]
struct Names {
    newest: Vec<JobId>,
    /// Whether these are all names of the state.
    all: bool,
}

impl Recent {
    /// The newest jobs in a state, newest first.
    pub(crate) fn newest(
        &self,
        layout: &Layout,
        state: JobState,
        limit: usize,
    ) -> Result<Vec<JobId>> {
        let Some(of) = self.of(state) else { return listing::newest(layout, state, None, limit) };
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
            *known = Known { names: None, changed: Some(changed), meanwhile: Some(Vec::new()) };
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
        &self,
        layout: &Layout,
        id: &JobId,
        (from, to): (JobState, JobState),
        change: impl FnOnce() -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        // Always lock in the order of the states, to avoid a deadlock.
        let mut notes: Vec<(JobState, MutexGuard<'_, Known>)> = STATES
            .into_iter()
            .filter(|state| [from, to].contains(state))
            .filter_map(|state| Some((state, self.of(state)?.known())))
            .collect();
        for (state, known) in &mut notes {
            known.check(changed(layout, *state).ok());
        }
        change()?;
        for (state, known) in &mut notes {
            known.note(if *state == to {
                Change::Came(id.clone())
            } else {
                Change::Went(id.clone())
            });
            known.changed = changed(layout, *state).ok();
        }
        Ok(())
    }

    /// Notes that another program put a job into a state, if it is still there: the report may be
    /// late, and this process may have moved the job on.
    pub(crate) fn came(&self, layout: &Layout, id: &JobId, state: JobState) {
        let Some(of) = self.of(state) else { return };
        let mut known = of.known();
        if layout.job_path(state, id).exists() {
            known.note(Change::Came(id.clone()));
        }
    }

    fn of(&self, state: JobState) -> Option<&State> {
        let index = STATES.iter().position(|remembered| *remembered == state)?;
        Some(&self.states[index])
    }
}

impl State {
    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic while it was held left nothing that the next check would not find.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, changed: Changed, limit: usize) -> Option<Vec<JobId>> {
        let known = self.known();
        let names = known.names.as_ref().filter(|_| known.changed == Some(changed))?;
        (names.all || names.newest.len() >= limit).then(|| names.last(limit))
    }
}

impl Known {
    /// Forgets everything if another process has changed the directory.
    fn check(&mut self, changed: Option<Changed>) {
        if self.changed != changed {
            *self = Self::default();
        }
    }

    fn note(&mut self, change: Change) {
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.push(change);
        } else if let Some(names) = &mut self.names {
            names.apply(change);
            names.forget_the_oldest();
        }
    }
}

impl Names {
    fn apply(&mut self, change: Change) {
        let (Change::Came(id) | Change::Went(id)) = &change;
        let place = self.newest.binary_search_by(|other| by_time(other, id));
        match (change, place) {
            // A job older than all that are remembered does not belong, unless all are remembered.
            (Change::Came(_), Err(0)) if !self.all => {}
            (Change::Came(id), Err(place)) => self.newest.insert(place, id),
            (Change::Went(_), Ok(place)) => drop(self.newest.remove(place)),
            (Change::Came(_), Ok(_)) | (Change::Went(_), Err(_)) => {}
        }
    }

    fn forget_the_oldest(&mut self) {
        if self.newest.len() > 2 * REMEMBERED {
            self.newest.drain(..self.newest.len() - REMEMBERED);
            self.newest.shrink_to(2 * REMEMBERED);
            self.all = false;
        }
    }

    fn last(&self, limit: usize) -> Vec<JobId> {
        self.newest.iter().rev().take(limit).cloned().collect()
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
                let found = self.layout.recent().newest(&self.layout, state, limit).unwrap();
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
        let recent = story.layout.recent();
        // As if the directory's time had not changed.
        let now = changed(&story.layout, JobState::Ready).unwrap();
        recent.of(JobState::Ready).unwrap().known().changed = Some(now);
        recent.came(&story.layout, &id(1), JobState::Ready);
        story.check(20);
    }

    #[test]
    fn an_arrival_told_after_the_job_has_moved_on_is_none() {
        let story = Story::with(0);
        story.put(1, JobState::Ready);
        story.check(20);
        let (from, to) = (JobState::Ready, JobState::Processing);
        staged::move_job(&story.layout, &Disk, &id(1), from, to).unwrap();
        story.layout.recent().came(&story.layout, &id(1), JobState::Ready);
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
                story.layout.recent().newest(&story.layout, JobState::Done, 20).unwrap();
                // Read again while other jobs move.
                story.layout.recent().of(JobState::Done).unwrap().known().names = None;
            }
        });
        story.check(20);
        story.check(REMEMBERED);
    }
}
