//! The ledger: records on disk which jobs are under way, so that the next run finds them after a
//! kill.
//!
//! The file has records of a fixed length, one per slot, which are overwritten in place: its size
//! depends on how many jobs are under way at once, not on the number of lines. The first record
//! names the batch. The file is in the home, as the jobs are, and is removed when the batch is
//! complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use threadrunner_core::JobId;
use threadrunner_home::{Home, Links, open_regular};

use crate::error::BatchError;
use crate::fingerprint::Fingerprint;

/// The version of the format. A file of any other version is discarded.
const VERSION: u32 = 2;
/// The length of a record in bytes: the longest id fits.
const RECORD: usize = 256;

/// A line under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The fingerprint of the line's key and of its whole submission.
    pub(crate) key: Fingerprint,
    /// The number of the line.
    pub(crate) line: u64,
    /// Its job, which may not have been submitted yet.
    pub(crate) job: JobId,
}

#[derive(Serialize, Deserialize)]
struct Header {
    v: u32,
    batch: String,
}

#[derive(Serialize, Deserialize)]
struct Record {
    key: String,
    line: u64,
    job: JobId,
}

/// The ledger of a batch. Without a file it records nothing, for a batch that cannot be resumed.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: Option<(PathBuf, File)>,
    batch: String,
}

impl Ledger {
    /// A ledger that records nothing, for output that cannot be read again.
    pub(crate) fn none() -> Self {
        Self { file: None, batch: new_name() }
    }

    /// Opens the ledger of the batch that writes to `out`. Also returns what was under way, by
    /// slot; `fresh` discards that and begins a new batch.
    pub(crate) fn open(
        home: &Home,
        out: &Path,
        fresh: bool,
    ) -> Result<(Self, Vec<(usize, Entry)>), BatchError> {
        home.create()?;
        let name = Fingerprint::of(&out.to_string_lossy());
        let path = home.run_dir.join(format!("batch-{name}"));
        let cannot = |error| cannot(&path, error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = open_regular(&path, &mut options, Links::Refused).map_err(cannot)?;
        let mut bytes = Vec::new();
        if !fresh {
            file.read_to_end(&mut bytes).map_err(cannot)?;
        }
        let mut records = bytes.chunks(RECORD);
        let header: Option<Header> = records.next().and_then(|r| serde_json::from_slice(r).ok());
        let (batch, entries) = match header {
            Some(header) if header.v == VERSION => {
                let entries = records.enumerate();
                let entries = entries.filter_map(|(slot, record)| Some((slot, entry(record)?)));
                (header.batch, entries.collect())
            }
            _ => {
                file.set_len(0).map_err(cannot)?;
                let batch = new_name();
                let header = Header { v: VERSION, batch: batch.clone() };
                file.write_all_at(&padded(&header), 0).map_err(cannot)?;
                (batch, Vec::new())
            }
        };
        Ok((Self { file: Some((path, file)), batch }, entries))
    }

    /// The batch's name, a tag of all its jobs.
    pub(crate) fn batch(&self) -> &str {
        &self.batch
    }

    /// Records what is under way in a slot; `None` clears it.
    pub(crate) fn note(&self, slot: usize, entry: Option<&Entry>) -> Result<(), BatchError> {
        let Some((path, file)) = &self.file else { return Ok(()) };
        let record = match entry {
            Some(entry) => padded(&Record {
                key: entry.key.to_string(),
                line: entry.line,
                job: entry.job.clone(),
            }),
            None => padded(&()),
        };
        let offset = (slot as u64 + 1) * RECORD as u64;
        file.write_all_at(&record, offset).map_err(|error| cannot(path, error))
    }

    /// Removes the ledger of a complete batch.
    pub(crate) fn remove(self) {
        if let Some((path, _)) = self.file {
            // A file that stays does no harm: every job in it is done.
            let _ = fs::remove_file(path);
        }
    }
}

fn entry(record: &[u8]) -> Option<Entry> {
    let record: Record = serde_json::from_slice(record).ok()?;
    Some(Entry { key: Fingerprint::parse(&record.key)?, line: record.line, job: record.job })
}

/// Formats a record as a line of JSON, padded with spaces to [`RECORD`] bytes.
fn padded(record: &impl Serialize) -> Vec<u8> {
    // Cannot fail: it is plain data.
    let mut bytes = serde_json::to_vec(record).unwrap_or_default();
    bytes.resize(RECORD - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// Makes a name that no other batch has, short enough to type.
fn new_name() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = format!("{} {}", since.as_nanos(), std::process::id());
    format!("batch-{}", &Fingerprint::of(&seed).to_string()[..8])
}

fn cannot(path: &Path, error: io::Error) -> BatchError {
    BatchError::Ledger { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(directory: &tempfile::TempDir) -> Home {
        let root = directory.path().join("h");
        Home::resolve(directory.path(), |name| {
            (name == "THREADRUNNER_HOME").then(|| root.as_os_str().to_owned())
        })
        .unwrap()
    }

    #[test]
    fn what_was_under_way_is_known_to_the_next_run() {
        let directory = tempfile::tempdir().unwrap();
        let home = home(&directory);
        let open = |fresh| Ledger::open(&home, Path::new("/x/out.jsonl"), fresh).unwrap();
        let (ledger, entries) = open(true);
        assert_eq!(entries, []);
        let entry = |line, job: &str| Entry {
            key: Fingerprint::of(&format!("line {line}")),
            line,
            job: JobId::parse(job).unwrap(),
        };
        let long = "9".repeat(JobId::MAX_LEN);
        ledger.note(0, Some(&entry(1, "17_1"))).unwrap();
        ledger.note(3, Some(&entry(u64::MAX, &long))).unwrap();
        ledger.note(1, Some(&entry(2, "17_2"))).unwrap();
        ledger.note(0, None).unwrap();
        let batch = ledger.batch().to_owned();
        drop(ledger);
        let (again, entries) = open(false);
        assert_eq!(again.batch(), batch);
        assert_eq!(entries, [(1, entry(2, "17_2")), (3, entry(u64::MAX, &long))]);
        again.remove();
        let (anew, entries) = open(false);
        assert_ne!(anew.batch(), batch);
        assert_eq!(entries, []);
    }

    #[test]
    fn a_batch_that_begins_anew_knows_nothing_of_the_last_one() {
        let directory = tempfile::tempdir().unwrap();
        let home = home(&directory);
        let out = Path::new("/x/out.jsonl");
        let (ledger, _) = Ledger::open(&home, out, true).unwrap();
        let entry = Entry { key: Fingerprint::of("x"), line: 1, job: JobId::parse("1").unwrap() };
        ledger.note(0, Some(&entry)).unwrap();
        assert_eq!(Ledger::open(&home, out, true).unwrap().1, []);
    }
}
