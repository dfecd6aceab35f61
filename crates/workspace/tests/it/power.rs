//! The power fails: what was not synced is there, half there, or gone.
//!
//! [`Recorder`] makes every change and records it. From the record, disks are built as a power
//! failure may leave them: for each job, the changes of names up to some point after the last sync
//! that covers them, as a journaling file system keeps them; for each file, the data that was
//! synced, and of the rest all, nothing, half, or zeros.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, fstat, statat};
use rustix::io::Errno;
use threadrunner_workspace::Durability;
use threadrunner_workspace::fs::{Disk, FileSystem};

use crate::scenario::{SCENARIOS, Scenario};
use crate::support::memory_dir;
use crate::told::{Place, Told};

type Node = usize;

#[derive(Debug)]
enum Change {
    MakeDir {
        parent: Node,
        name: String,
        node: Node,
    },
    Create {
        parent: Node,
        name: String,
        node: Node,
    },
    /// At `at`, or at the end.
    Write {
        node: Node,
        at: Option<u64>,
        bytes: Vec<u8>,
    },
    Rename {
        from: (Node, String),
        to: (Node, String),
    },
    Remove {
        parent: Node,
        name: String,
    },
    Sync {
        node: Node,
    },
    SyncAll,
}

#[derive(Debug, Default)]
struct Record {
    changes: Vec<Change>,
    /// Nodes by their current inode number: a number is reused after a removal.
    by_inode: HashMap<u64, Node>,
    nodes: usize,
    /// The number of changes after which the power fails.
    until: Option<usize>,
}

/// The node of the workspace's own directory.
const ROOT: Node = 0;

#[derive(Debug)]
struct Recorder {
    record: Mutex<Record>,
    may_sync_all: bool,
}

impl Recorder {
    fn new(may_sync_all: bool) -> Arc<Self> {
        Arc::new(Self { record: Mutex::default(), may_sync_all })
    }

    fn power_fails_after(&self, changes: usize) {
        let mut record = self.record.lock().unwrap();
        record.until = Some(record.changes.len() + changes);
    }

    /// Makes a change and records it, unless the power is off.
    fn record<T>(
        &self,
        change: impl FnOnce(&mut Record) -> io::Result<(T, Change)>,
    ) -> io::Result<T> {
        let mut record = self.record.lock().unwrap();
        if record.until.is_some_and(|until| record.changes.len() >= until) {
            return Err(Errno::IO.into());
        }
        let (value, change) = change(&mut record)?;
        record.changes.push(change);
        Ok(value)
    }
}

impl Record {
    fn node(&mut self, fd: BorrowedFd<'_>) -> Node {
        let inode = fstat(fd).unwrap().st_ino;
        if self.by_inode.is_empty() {
            return self.new_node(inode);
        }
        // The only directory ever synced that has no node is the one that contains the workspace.
        self.by_inode.get(&inode).copied().unwrap_or(usize::MAX)
    }

    fn new_node(&mut self, inode: u64) -> Node {
        let node = self.nodes;
        self.nodes += 1;
        self.by_inode.insert(inode, node);
        node
    }
}

impl FileSystem for Recorder {
    fn make_dir(&self, dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        self.record(|record| {
            Disk.make_dir(dir, name)?;
            let parent = record.node(dir);
            let inode = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).unwrap().st_ino;
            let node = record.new_node(inode);
            Ok(((), Change::MakeDir { parent, name: name.to_owned(), node }))
        })
    }

    fn create(&self, dir: BorrowedFd<'_>, name: &str) -> io::Result<File> {
        self.record(|record| {
            let file = Disk.create(dir, name)?;
            let parent = record.node(dir);
            let node = record.new_node(fstat(&file).unwrap().st_ino);
            Ok((file, Change::Create { parent, name: name.to_owned(), node }))
        })
    }

    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        self.record(|record| {
            Disk.write(file, bytes)?;
            let node = record.node(file.as_fd());
            Ok(((), Change::Write { node, at: None, bytes: bytes.to_owned() }))
        })
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.record(|record| {
            Disk.write_at(file, bytes, offset)?;
            let node = record.node(file.as_fd());
            Ok(((), Change::Write { node, at: Some(offset), bytes: bytes.to_owned() }))
        })
    }

    fn rename(
        &self,
        from: (BorrowedFd<'_>, &str),
        to: (BorrowedFd<'_>, &str),
        replace: bool,
    ) -> io::Result<()> {
        self.record(|record| {
            Disk.rename(from, to, replace)?;
            let from = (record.node(from.0), from.1.to_owned());
            let to = (record.node(to.0), to.1.to_owned());
            Ok(((), Change::Rename { from, to }))
        })
    }

    fn remove_file(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        self.record(|record| {
            Disk.remove_file(dir, name)?;
            let parent = record.node(dir);
            Ok(((), Change::Remove { parent, name: name.to_str().unwrap().to_owned() }))
        })
    }

    fn remove_dir(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        self.record(|record| {
            Disk.remove_dir(dir, name)?;
            let parent = record.node(dir);
            Ok(((), Change::Remove { parent, name: name.to_str().unwrap().to_owned() }))
        })
    }

    fn unwritten_bytes(&self) -> Option<u64> {
        self.may_sync_all.then_some(0)
    }

    // Different after the power failure.
    fn mount(&self, _dir: BorrowedFd<'_>) -> Option<String> {
        Some("before".to_owned())
    }

    fn start_sync(&self, _file: BorrowedFd<'_>) {}

    fn sync(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.record(|record| Ok(((), Change::Sync { node: record.node(file) })))
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.sync(file.as_fd())
    }

    fn sync_all(&self, _dir: BorrowedFd<'_>) -> io::Result<()> {
        self.record(|_| Ok(((), Change::SyncAll)))
    }
}

/// What a disk holds.
#[derive(Debug, Clone)]
enum Content {
    Dir(BTreeMap<String, Node>),
    File(Vec<u8>),
}

/// What happens to changes that were not synced.
#[derive(Debug, Clone, Copy)]
enum Luck {
    /// None of them is on the disk.
    Worst,
    /// All names are on the disk, but no data of the files.
    NamesOnly,
    /// Random, from this seed.
    Random(u64),
}

/// Pseudorandom numbers, the same each time (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

impl Record {
    /// Writes a disk as the power failure may have left it.
    fn leave(&self, luck: Luck, target: &Path) {
        let mut dice = Dice(match luck {
            Luck::Random(seed) => seed,
            Luck::Worst | Luck::NamesOnly => 0,
        });
        let jobs = self.jobs_of_changes();
        let mut cuts: BTreeMap<&str, usize> = BTreeMap::new();
        for job in jobs.iter().flatten() {
            cuts.entry(job).or_insert_with(|| {
                let least = self.last_synced(job, &jobs);
                match luck {
                    Luck::Worst => least,
                    Luck::NamesOnly => self.changes.len(),
                    Luck::Random(_) => least + dice.below(self.changes.len() - least + 1),
                }
            });
        }
        let mut disk = HashMap::from([(ROOT, Content::Dir(BTreeMap::new()))]);
        for (at, change) in self.changes.iter().enumerate() {
            // Changes without a job concern the workspace's own directories, made long before.
            if jobs[at].as_ref().is_none_or(|job| at < cuts[job.as_str()]) {
                apply(&mut disk, change);
            }
        }
        for (node, content) in &mut disk {
            if let Content::File(bytes) = content {
                *bytes = self.data_left(*node, luck, &mut dice);
            }
        }
        write_out(&disk, ROOT, target);
    }

    /// The job that each change of a name concerns.
    fn jobs_of_changes(&self) -> Vec<Option<String>> {
        let mut job_of: HashMap<Node, Option<String>> = HashMap::from([(ROOT, None)]);
        let of_name = |name: &str| {
            let id = name.strip_suffix(".gone").unwrap_or(name);
            let known = id == ".redo" || id.bytes().all(|b| b.is_ascii_digit() || b == b'_');
            known.then(|| id.to_owned())
        };
        let mut jobs = Vec::new();
        for change in &self.changes {
            let job = match change {
                Change::MakeDir { parent, name, node } | Change::Create { parent, name, node } => {
                    let job = job_of[parent].clone().or_else(|| of_name(name));
                    job_of.insert(*node, job.clone());
                    job
                }
                Change::Rename { from: (parent, name), .. } | Change::Remove { parent, name } => {
                    job_of[parent].clone().or_else(|| of_name(name))
                }
                Change::Write { .. } | Change::Sync { .. } | Change::SyncAll => None,
            };
            jobs.push(job);
        }
        jobs
    }

    /// The change after which a job's names are on the disk for certain.
    fn last_synced(&self, job: &str, jobs: &[Option<String>]) -> usize {
        let mut certain = 0;
        for (at, sync) in self.changes.iter().enumerate() {
            let covered = |change: &Change| match (sync, change) {
                (Change::SyncAll, _) => true,
                (
                    Change::Sync { node },
                    Change::MakeDir { parent, .. }
                    | Change::Create { parent, .. }
                    | Change::Remove { parent, .. },
                ) => parent == node,
                (Change::Sync { node }, Change::Rename { from, to }) => {
                    from.0 == *node || to.0 == *node
                }
                _ => false,
            };
            let last = (0..at)
                .rev()
                .find(|&i| jobs[i].as_deref() == Some(job) && covered(&self.changes[i]));
            certain = certain.max(last.map_or(0, |last| last + 1));
        }
        certain
    }

    fn data_left(&self, file: Node, luck: Luck, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut unsynced = Vec::new();
        let mut length = 0;
        for change in &self.changes {
            match change {
                Change::Write { node, at, bytes } if *node == file => {
                    let at = at.map_or(length, |at| at as usize);
                    length = length.max(at + bytes.len());
                    unsynced.push((at, bytes.clone()));
                }
                Change::Sync { node } if *node == file => put(&mut bytes, unsynced.drain(..)),
                Change::SyncAll => put(&mut bytes, unsynced.drain(..)),
                _ => {}
            }
        }
        let fate = match luck {
            Luck::Worst | Luck::NamesOnly => 0,
            Luck::Random(_) => dice.below(4),
        };
        match fate {
            0 => unsynced.clear(),
            1 => {
                // Half of the content of some of the writes.
                unsynced.retain(|_| dice.below(3) > 0);
                unsynced.iter_mut().for_each(|(_, bytes)| bytes.truncate(bytes.len() / 2));
            }
            2 => unsynced.iter_mut().for_each(|(_, bytes)| bytes.fill(0)),
            _ => {}
        }
        put(&mut bytes, unsynced.into_iter());
        bytes
    }
}

/// Writes each piece at its offset.
fn put(bytes: &mut Vec<u8>, pieces: impl Iterator<Item = (usize, Vec<u8>)>) {
    for (at, piece) in pieces {
        bytes.resize(bytes.len().max(at + piece.len()), 0);
        bytes[at..at + piece.len()].copy_from_slice(&piece);
    }
}

fn apply(disk: &mut HashMap<Node, Content>, change: &Change) {
    fn dir(disk: &mut HashMap<Node, Content>, node: Node) -> &mut BTreeMap<String, Node> {
        match disk.get_mut(&node) {
            Some(Content::Dir(entries)) => entries,
            other => panic!("{node} is {other:?}"),
        }
    }
    match change {
        Change::MakeDir { parent, name, node } => {
            dir(disk, *parent).insert(name.clone(), *node);
            disk.insert(*node, Content::Dir(BTreeMap::new()));
        }
        Change::Create { parent, name, node } => {
            dir(disk, *parent).insert(name.clone(), *node);
            disk.insert(*node, Content::File(Vec::new()));
        }
        Change::Rename { from, to } => {
            let node = dir(disk, from.0).remove(&from.1).unwrap();
            dir(disk, to.0).insert(to.1.clone(), node);
        }
        Change::Remove { parent, name } => {
            dir(disk, *parent).remove(name).unwrap();
        }
        Change::Write { .. } | Change::Sync { .. } | Change::SyncAll => {}
    }
}

fn write_out(disk: &HashMap<Node, Content>, node: Node, target: &Path) {
    match &disk[&node] {
        Content::File(bytes) => std::fs::write(target, bytes).unwrap(),
        Content::Dir(entries) => {
            std::fs::create_dir(target).unwrap();
            for (name, node) in entries {
                write_out(disk, *node, &target.join(name));
            }
        }
    }
}

/// Runs a scenario until the power fails, and checks what it may have left. Returns `false` if the
/// scenario ended before.
fn fail_power(scenario: &Scenario, after: usize, may_sync_all: bool, seeds: u64) -> bool {
    let temp = memory_dir();
    let recorder = Recorder::new(may_sync_all);
    let place = Place {
        path: temp.path().join("ws"),
        fs: recorder.clone(),
        durability: Durability::Durable,
    };
    let mut told = Told::default();
    drop(place.open().unwrap());
    (scenario.prepare)(&place, &mut told);
    recorder.power_fails_after(after);
    if let Ok((mut ws, recovered)) = place.open() {
        told.recovered(&recovered);
        (scenario.run)(&mut ws, &mut told);
    }
    told.ended = true;
    let record = recorder.record.lock().unwrap();
    let random = (0..seeds).map(|seed| Luck::Random(seed ^ ((after as u64) << 32)));
    for luck in [Luck::Worst, Luck::NamesOnly].into_iter().chain(random) {
        let left = temp.path().join("left");
        record.leave(luck, &left);
        let context = format!(
            "{} without power after {after}, sync_all {may_sync_all}, {luck:?}",
            scenario.name
        );
        told.clone().check_after_restart(&left, &context);
        std::fs::remove_dir_all(&left).unwrap();
    }
    record.until == Some(record.changes.len())
}

#[test]
fn the_power_fails_at_any_change() {
    for scenario in SCENARIOS {
        for may_sync_all in [true, false] {
            let mut after = 0;
            while fail_power(scenario, after, may_sync_all, 10) {
                after += 1;
            }
            assert!(after >= 5, "{} changes next to nothing", scenario.name);
        }
    }
}
