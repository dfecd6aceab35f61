//! When one sync covers everything, and when each file is synced by itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use tempfile::TempDir;
use threadrunner_core::{ErrorCode, JobState};
use threadrunner_workspace::{Options, Workspace, WorkspaceError};

use crate::support::{job, memory_dir, now};
use crate::twisted::{Twist, Twisted};

/// A disk that counts its syncs, and on which other programs have much unwritten data.
#[derive(Debug, Default)]
struct Counting {
    unwritten: AtomicU64,
    all: AtomicU64,
    single: AtomicU64,
    log: AtomicU64,
    /// Fail to create directories, with this error.
    make_dir_errno: Option<Errno>,
}

impl Twist for Counting {
    fn make_dir(&self) -> io::Result<()> {
        self.make_dir_errno.map_or(Ok(()), |errno| Err(errno.into()))
    }

    fn unwritten_bytes(&self) -> Option<u64> {
        Some(self.unwritten.load(Ordering::Relaxed))
    }

    fn sync(&self) -> io::Result<()> {
        self.single.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.log.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.all.fetch_add(1, Ordering::Relaxed);
        self.unwritten.store(0, Ordering::Relaxed);
        Ok(())
    }
}

/// A workspace, and the disk that counts its syncs.
fn counted() -> (TempDir, Arc<Twisted<Counting>>, Workspace) {
    let temp = memory_dir();
    let disk = Arc::new(Twisted(Counting::default()));
    let (ws, _) = Workspace::open_on(disk.clone(), temp.path(), Options::default(), now()).unwrap();
    (temp, disk, ws)
}

fn submit(ws: &mut Workspace, jobs: usize) {
    for _ in 0..jobs {
        let id = ws.next_id(now());
        ws.submit(job(&id, "hi"), now()).unwrap();
    }
    assert!(ws.sync().failed.is_empty());
}

#[test]
fn a_group_of_submissions_waits_for_the_log_alone() {
    let (_temp, disk, mut ws) = counted();
    let before = disk.single.load(Ordering::Relaxed);
    disk.unwritten.store(240 << 20, Ordering::Relaxed);
    for (jobs, syncs) in [(1, 1), (64, 2), (0, 2)] {
        submit(&mut ws, jobs);
        assert_eq!(disk.log.load(Ordering::Relaxed), syncs, "{jobs}");
    }
    assert_eq!(disk.all.load(Ordering::Relaxed), 0);
    // The log was created, in the workspace's own directory.
    assert_eq!(disk.single.load(Ordering::Relaxed) - before, 1);
}

#[test]
fn a_group_of_any_size_shares_one_sync() {
    let (_temp, disk, mut ws) = counted();
    submit(&mut ws, 65);
    let before = disk.single.load(Ordering::Relaxed);
    let mut queued = ws.reader().ids(JobState::Ready).unwrap().into_iter();
    for (jobs, syncs) in [(1, 1), (64, 2), (0, 2)] {
        for id in queued.by_ref().take(jobs) {
            drop(ws.claim(&id, now()).unwrap());
        }
        assert!(ws.sync().failed.is_empty());
        assert_eq!(disk.all.load(Ordering::Relaxed), syncs, "{jobs}");
    }
    assert_eq!(disk.single.load(Ordering::Relaxed), before);
}

#[test]
fn a_sync_does_not_wait_for_much_of_others_until_that_is_the_cheaper() {
    let (_temp, disk, mut ws) = counted();
    submit(&mut ws, 60);
    let mut queued = ws.reader().ids(JobState::Ready).unwrap().into_iter();
    let mut claim = |jobs| {
        for id in queued.by_ref().take(jobs) {
            drop(ws.claim(&id, now()).unwrap());
            assert!(ws.sync().failed.is_empty());
        }
    };
    disk.unwritten.store(240 << 20, Ordering::Relaxed);
    let before = disk.single.load(Ordering::Relaxed);
    claim(1);
    assert_eq!(disk.all.load(Ordering::Relaxed), 0);
    // The next job.json and the three files that were left to the log, their directory, and the
    // directories of the submissions and of the queue.
    assert_eq!(disk.single.load(Ordering::Relaxed) - before, 7);
    claim(24);
    assert_eq!(disk.all.load(Ordering::Relaxed), 0);
    claim(1);
    assert_eq!(disk.all.load(Ordering::Relaxed), 1);
    let after = disk.single.load(Ordering::Relaxed);
    claim(1);
    assert_eq!(disk.single.load(Ordering::Relaxed), after);
}

#[test]
fn errors_name_the_path_and_the_verb_and_what_to_do() {
    for (errno, hint) in [
        (Errno::ROFS, "mounted read-only"),
        (Errno::ACCESS, "readable and writable"),
        (Errno::NOSPC, "the disk is full"),
        (Errno::DQUOT, "quota"),
        (Errno::MFILE, "ulimit"),
    ] {
        let temp = memory_dir();
        drop(Workspace::open(temp.path(), Options::default(), now()).unwrap());
        let disk =
            Arc::new(Twisted(Counting { make_dir_errno: Some(errno), ..Counting::default() }));
        let (mut ws, _) = Workspace::open_on(disk, temp.path(), Options::default(), now()).unwrap();
        let id = ws.next_id(now());
        let error = ws.submit(job(&id, "hi"), now()).unwrap_err();
        assert!(matches!(error, WorkspaceError::Io { verb: "create", .. }), "{error:?}");
        assert_eq!(error.is_disk_full(), matches!(errno, Errno::NOSPC | Errno::DQUOT));
        let failure = error.into_failure();
        // Descriptors that others hold become free again.
        let passes = errno == Errno::MFILE;
        assert_eq!(failure.code, if passes { ErrorCode::Overloaded } else { ErrorCode::Io });
        let path = temp.path().join("input/writing").join(id.as_str());
        let start = format!("cannot create {}: ", path.display());
        assert!(failure.message.starts_with(&start), "{}", failure.message);
        let said = failure.hint.unwrap();
        assert!(said.contains(hint), "{errno:?}");
        // The path that it says to look at exists.
        let there = format!("df -h {};", temp.path().join("input/writing").display());
        assert!(errno != Errno::NOSPC || said.contains(&there), "{said}");
    }
}

#[test]
fn a_workspace_that_is_a_file_says_so() {
    let temp = memory_dir();
    let path = temp.path().join("ws");
    std::fs::write(&path, "").unwrap();
    let error = Workspace::open(&path, Options::default(), now()).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot create {}", path.display())), "{error}");
}

#[test]
fn a_state_that_is_a_link_is_refused() {
    let temp = memory_dir();
    let path = temp.path().join("ws");
    drop(Workspace::open(&path, Options::default(), now()).unwrap());
    std::fs::rename(path.join("output"), temp.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(temp.path().join("elsewhere"), path.join("output")).unwrap();
    let error = Workspace::open(&path, Options::default(), now()).unwrap_err();
    assert!(error.to_string().contains("output: it is a symbolic link"), "{error}");
}

#[test]
fn only_the_owner_can_enter_a_workspace() {
    use std::os::unix::fs::PermissionsExt;
    let temp = memory_dir();
    let path = temp.path().join("a/ws");
    let (mut ws, _) = Workspace::open(&path, Options::default(), now()).unwrap();
    submit(&mut ws, 1);
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    for dir in ["", "input", "input/ready", "processing", "output", "failed"] {
        assert_eq!(mode(&path.join(dir)), 0o700, "{dir}");
    }
    let id = ws.reader().ids(JobState::Ready).unwrap().remove(0);
    let (_, job) = ws.reader().locate(&id).unwrap();
    assert_eq!((mode(&job), mode(&job.join("prompt.txt"))), (0o700, 0o600));
}
