//! A disk that stays full for a while.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use tempfile::TempDir;
use threadrunner_core::JobState;
use threadrunner_workspace::fs::{Disk, FileSystem as _};
use threadrunner_workspace::{Options, Workspace};

use crate::support::{job, now};
use crate::twisted::{Twist, Twisted};

/// A disk that, while it is full, has room for empty files only.
#[derive(Debug, Default)]
struct Small {
    full: AtomicBool,
    fails_at_sync: AtomicBool,
}

impl Twist for Small {
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) && !self.fails_at_sync.load(Ordering::Relaxed) {
            return Err(Errno::NOSPC.into());
        }
        Disk.write(file, bytes)
    }

    fn unwritten_bytes(&self) -> Option<u64> {
        None
    }

    fn sync(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) { Err(Errno::NOSPC.into()) } else { Ok(()) }
    }

    fn sync_all(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[test]
fn attempts_that_a_full_disk_kept_from_beginning_are_not_counted() {
    for fails_at_sync in [false, true] {
        let disk =
            Arc::new(Twisted(Small { fails_at_sync: fails_at_sync.into(), ..Small::default() }));
        let temp = TempDir::new().unwrap();
        let (mut ws, _) =
            Workspace::open_on(disk.clone(), temp.path(), Options::default(), now()).unwrap();
        let id = ws.next_id(now());
        ws.submit(job(&id, "hi"), now()).unwrap();
        assert!(ws.sync().failed.is_empty());
        disk.full.store(true, Ordering::Relaxed);
        for _ in 0..10 {
            match ws.claim(&id, now()) {
                Err(error) => assert!(error.is_shortage(), "{error}"),
                Ok(_) => {
                    let mut synced = ws.sync();
                    assert!(synced.take_error(&id).unwrap().is_shortage());
                }
            }
        }
        disk.full.store(false, Ordering::Relaxed);
        let claimed = ws.claim(&id, now()).unwrap();
        assert!(ws.sync().failed.is_empty());
        assert_eq!(claimed.spec().attempts, 1);
        assert_eq!(ws.reader().locate(&id).unwrap().0, JobState::Processing);
    }
}
