//! The redo log: makes submissions durable with one write, without waiting for their directories.
//!
//! To put a directory and three files on the disk, the file system writes its own journal. That
//! takes twice as long as writing into a file whose blocks are already allocated. So a group of
//! nothing but submissions is written to the log, and only that write is waited for. The
//! directories are created and moved as always, and are what everybody reads. The log is read only
//! if the power may have failed: submissions that it holds and the directories lack are written
//! again.
//!
//! An entry counts until something else has put its directory on the disk. A sync of everything
//! does so for all entries ([`RedoLog::sync_all`]), and the log starts over. A sync of single files
//! does so for its own jobs ([`RedoLog::settle`]). Before a job is removed, its entry is withdrawn,
//! or a power failure would bring the job back.
//!
//! `.redo` has a fixed size and holds records, one after the other: the length and the CRC-32 of
//! what follows, four bytes each, little-endian; then a line of JSON for the record and one for
//! each of its submissions. The records that count are those from the start that are complete and
//! have the epoch of the first one.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use threadrunner_core::{JobId, JobState, micros_since_epoch};

use crate::files::{ReadError, job_dir};
use crate::fs::FileSystem;
use crate::layout::{Layout, REDO_FILE, open_root};
use crate::submission::Submission;
use crate::{Result, WorkspaceError};

/// The size of the log, in bytes: room for some 280 jobs with short prompts. A full log starts over
/// after a sync of everything, which takes longer the more it covers.
const LOG_BYTES: usize = 256 << 10;

/// Reserved for records without submissions, which withdraw entries, in bytes.
const RESERVED_BYTES: usize = 8 << 10;

/// The length and the checksum before each record, in bytes.
const PREFIX_BYTES: usize = 8;

/// A record's first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// The same in all records that count.
    epoch: u64,
    /// The mount under which it was written: see [`FileSystem::mount`].
    mount: String,
    /// Jobs of earlier records that no longer count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    settled: Vec<JobId>,
}

/// The redo log of one workspace.
#[derive(Debug, Default)]
pub(crate) struct RedoLog {
    /// The log, if it exists.
    file: Option<File>,
    /// Whether to create one when it is first needed.
    wanted: bool,
    mount: String,
    epoch: u64,
    /// The offset of the next record.
    end: usize,
    /// The jobs that would not survive a power failure without the log.
    held: HashSet<JobId>,
    /// Whether the disk may still hold records that no longer count.
    stale: bool,
    /// Whether a failed sync may have concerned these jobs. The file system reports a failure once,
    /// and success after that.
    doubted: bool,
}

impl RedoLog {
    /// Opens the existing log. Also returns the submissions in it that a power failure may have
    /// kept from the disk.
    pub(crate) fn open(
        layout: &Layout,
        fs: &dyn FileSystem,
        now: SystemTime,
    ) -> Result<(Self, Vec<Submission<'static>>)> {
        let mount = fs.mount(layout.dir(JobState::Writing));
        let mut log = Self {
            wanted: mount.is_some(),
            mount: mount.unwrap_or_default(),
            epoch: micros_since_epoch(now),
            ..Self::default()
        };
        let root = open_root(layout.root())?;
        let path = || layout.root().join(REDO_FILE);
        let bytes = match job_dir(&root, layout.root().to_owned()).read(REDO_FILE) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok((log, Vec::new())),
            // A link or directory that another program put there: leave it alone.
            Err(ReadError::Unfit(_)) => {
                log.wanted = false;
                return Ok((log, Vec::new()));
            }
            Err(ReadError::Io(error)) => return Err(WorkspaceError::io("read", path(), error)),
        };
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&root, REDO_FILE, flags, Mode::empty())
            .map_err(|error| WorkspaceError::io("open", path(), error))?;
        log.file = Some(file.into());
        let lost = log.read(&bytes).map_err(|error| WorkspaceError::io("read", path(), error))?;
        Ok((log, lost))
    }

    /// Reads the records that count, and returns the submissions written under another mount.
    fn read(&mut self, bytes: &[u8]) -> io::Result<Vec<Submission<'static>>> {
        let mut jobs = BTreeMap::new();
        while let Some(record) = record(&bytes[self.end..])?
            && (self.end == 0 || record.head.epoch == self.epoch)
        {
            for id in &record.head.settled {
                jobs.remove(id);
            }
            let lost = self.mount.is_empty() || record.head.mount != self.mount;
            jobs.extend(record.jobs.into_iter().map(|it| (it.id.clone(), (lost, it))));
            self.epoch = record.head.epoch;
            self.end += record.length;
        }
        self.held = jobs.keys().cloned().collect();
        Ok(jobs.into_values().filter_map(|(lost, it)| lost.then_some(it)).collect())
    }

    /// Whether a job would not survive a power failure without the log.
    pub(crate) fn holds(&self, id: &JobId) -> bool {
        self.held.contains(id)
    }

    /// The number of such jobs.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Puts submissions on the disk by writing their entries to the log, if there is room. If this
    /// returns `false`, sync them like any other change.
    pub(crate) fn append(
        &mut self,
        layout: &Layout,
        fs: &dyn FileSystem,
        submissions: &[(&JobId, &[u8])],
    ) -> bool {
        if self.file.is_none() && std::mem::take(&mut self.wanted) {
            // If there is no room for a log, there may still be room for the jobs.
            self.file = make(layout, fs).ok();
        }
        let entries: Vec<_> = submissions.iter().map(|(_, entry)| *entry).collect();
        let written = self.write(fs, &[], &entries).is_some_and(|written| written.is_ok());
        if written {
            self.held.extend(submissions.iter().map(|(id, _)| (*id).clone()));
        }
        written
    }

    /// Withdraws the entries of these jobs for good, and clears from the disk what no longer
    /// counts.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`] when neither the log nor the disk as a whole can be written.
    pub(crate) fn settle(
        &mut self,
        layout: &Layout,
        fs: &dyn FileSystem,
        ids: &[JobId],
    ) -> Result<()> {
        let ids: Vec<_> = ids.iter().filter(|id| self.holds(id)).cloned().collect();
        if ids.is_empty() && !self.stale {
            return Ok(());
        }
        let mut written = self.write(fs, &ids, &[]);
        if written.is_none() && self.sync_all(layout, fs).is_ok() {
            written = self.write(fs, &ids, &[]);
        }
        match written {
            Some(Ok(())) => {
                self.held.retain(|id| !ids.contains(id));
                self.doubted &= self.held() > 0;
                Ok(())
            }
            _ => self.remove(layout, fs),
        }
    }

    /// Syncs everything on the file system. What was moved into place is then on the disk, so
    /// nothing written to the log so far counts any more.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`]. Something could not be written, and it is unknown what.
    pub(crate) fn sync_all(&mut self, layout: &Layout, fs: &dyn FileSystem) -> Result<()> {
        if let Err(error) = fs.sync_all(layout.dir(JobState::Writing)) {
            self.doubted = self.held() > 0;
            return Err(WorkspaceError::io("sync", layout.root(), error));
        }
        if self.doubted || self.end == 0 {
            return Ok(());
        }
        self.held.clear();
        self.epoch += 1;
        self.end = 0;
        self.stale = true;
        // Not waited for: the next sync takes it along, or the system writes it in its own time.
        // Before a job is removed, `settle` waits.
        let _ = self.file.as_ref().map(|file| fs.write_at(file, &[0; PREFIX_BYTES], 0));
        Ok(())
    }

    /// Writes a record and waits for it; `None` if there is no log or no room in it.
    fn write(
        &mut self,
        fs: &dyn FileSystem,
        settled: &[JobId],
        entries: &[&[u8]],
    ) -> Option<io::Result<()>> {
        let file = self.file.as_ref()?;
        let head = Head { epoch: self.epoch, mount: self.mount.clone(), settled: settled.to_vec() };
        let mut bytes = vec![0; PREFIX_BYTES];
        serde_json::to_writer(&mut bytes, &head).ok()?;
        for entry in entries {
            bytes.push(b'\n');
            bytes.extend_from_slice(entry);
        }
        let length = bytes.len() - PREFIX_BYTES;
        let reserved = if entries.is_empty() { 0 } else { RESERVED_BYTES };
        if self.end + bytes.len() + reserved > LOG_BYTES {
            return None;
        }
        let crc32 = crc32fast::hash(&bytes[PREFIX_BYTES..]);
        bytes[..4].copy_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
        bytes[4..PREFIX_BYTES].copy_from_slice(&crc32.to_le_bytes());
        // Until it is certain what the disk has, the next record overwrites this one.
        self.stale = true;
        let written = fs.write_at(file, &bytes, self.end as u64).and_then(|()| fs.sync_data(file));
        if written.is_ok() {
            self.stale = false;
            self.end += bytes.len();
        }
        Some(written)
    }

    /// Deletes the log, and does without it from now on.
    fn remove(&mut self, layout: &Layout, fs: &dyn FileSystem) -> Result<()> {
        if self.held() > 0 {
            self.sync_all(layout, fs)?;
        }
        if self.doubted {
            let error = io::Error::other("an earlier sync failed");
            return Err(WorkspaceError::io("sync", layout.root(), error));
        }
        let root = open_root(layout.root())?;
        job_dir(&root, layout.root().to_owned()).remove(fs, REDO_FILE)?;
        self.file = None;
        fs.sync(root.as_fd()).map_err(|error| WorkspaceError::io("sync", layout.root(), error))?;
        *self = Self::default();
        Ok(())
    }
}

/// Creates an empty log with every block written, so that later writes need no allocation.
fn make(layout: &Layout, fs: &dyn FileSystem) -> Result<File> {
    let root = open_root(layout.root())?;
    let dir = job_dir(&root, layout.root().to_owned());
    let made = dir.write(fs, REDO_FILE, vec![0; LOG_BYTES]).and_then(|file| {
        fs.sync(dir.fd).map_err(|error| WorkspaceError::io("sync", layout.root(), error))?;
        Ok(file)
    });
    if made.is_err() {
        let _ = dir.remove(fs, REDO_FILE);
    }
    made
}

/// The content of a record, and its length with the prefix, in bytes.
struct Record {
    head: Head,
    jobs: Vec<Submission<'static>>,
    length: usize,
}

/// The first record of `bytes`; `None` if there is none or it is incomplete.
///
/// # Errors
/// For a complete record that cannot be understood: another version wrote it.
fn record(bytes: &[u8]) -> io::Result<Option<Record>> {
    let Some(body) = body(bytes) else { return Ok(None) };
    let mut lines = body.split(|&byte| byte == b'\n');
    let head = serde_json::from_slice(lines.next().unwrap_or_default())?;
    let jobs = lines.map(serde_json::from_slice).collect::<Result<_, _>>()?;
    Ok(Some(Record { head, jobs, length: PREFIX_BYTES + body.len() }))
}

fn body(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (crc32, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|&length| length > 0)?;
    let body = rest.get(..length)?;
    (crc32fast::hash(body) == u32::from_le_bytes(*crc32)).then_some(body)
}
