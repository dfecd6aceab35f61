//! Keeps ids in order while the clock is behind them.
//!
//! An id begins with the time, so that sorting by name sorts by creation. If the clock is set back,
//! new ids continue after the newest one. After a restart, the times of directories say which that
//! is, but they follow the clock. So while ids are ahead of the clock, `.newest` records how far
//! they may have come.

use std::time::SystemTime;

use threadrunner_core::{JobId, micros_since_epoch};

use crate::files::job_dir;
use crate::layout::open_root;
use crate::{Result, Workspace};

const FILE: &str = ".newest";
const NEXT: &str = ".newest.tmp";

/// Ids ahead of the clock by less than this count as current, in microseconds.
const MOMENT: u64 = 1_000_000;
/// How far beyond the newest id the file reaches, in microseconds, so that it is seldom written.
const RESERVED: u64 = 60_000_000;

impl Workspace {
    /// Records a job's id if the clock is behind the newest one.
    pub(crate) fn note_id(&mut self, id: &JobId, now: SystemTime) {
        self.ids_come_after(id);
        let newest = self.newest_micros();
        let is_ahead = newest > micros_since_epoch(now).saturating_add(MOMENT);
        if is_ahead && newest > self.ids_noted {
            let noted = newest.saturating_add(RESERVED);
            // Without it the job is unharmed. Only the order of ids may suffer.
            if self.write_newest(noted).is_ok() {
                self.ids_noted = noted;
            }
        }
    }

    fn write_newest(&self, micros: u64) -> Result<()> {
        let root = open_root(self.path())?;
        let dir = job_dir(&root, self.path().to_owned());
        dir.write(&*self.fs, NEXT, format!("{micros:016}\n"))?;
        dir.replace(&*self.fs, NEXT, FILE)
    }

    /// Makes new ids continue after all recorded ones.
    pub(crate) fn recall_ids(&mut self) -> Result<()> {
        let root = open_root(self.path())?;
        let noted = job_dir(&root, self.path().to_owned()).read_fit(FILE)?;
        let noted = noted.and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some(id) = noted.and_then(|text| JobId::parse(text.trim()).ok()) {
            self.ids_noted = id.micros().unwrap_or(0);
            self.ids_come_after(&id);
        }
        Ok(())
    }
}
