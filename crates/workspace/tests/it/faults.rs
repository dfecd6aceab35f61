//! Fails the nth change to the disk, or ends the process there: for every n of every scenario.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use threadrunner_workspace::fs::{Disk, FileSystem as _};
use threadrunner_workspace::{Options, Workspace};

use crate::scenario::{SCENARIOS, Scenario};
use crate::support::{memory_dir, now};
use crate::told::{Place, Told};
use crate::twisted::{Twist, Twisted};

/// The disk, with one fault.
#[derive(Debug)]
pub(crate) struct Faulty {
    changes: AtomicUsize,
    fault_at: usize,
    fault: Fault,
    luck: Luck,
}

/// What else differs between disks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Luck {
    /// Everything can be synced at once.
    Plain,
    /// Each file is synced by itself.
    Busy,
    /// The next owner cannot tell that the power stayed on.
    MountedAnew,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// This change fails with this error; later ones succeed.
    Fails(Errno),
    /// This change and all later ones fail: the process ended before it.
    End,
    /// As [`Fault::End`], but if the change is a write, half of it was done.
    EndHalfway,
}

impl Faulty {
    pub(crate) fn new(fault_at: usize, fault: Fault, luck: Luck) -> Arc<Twisted<Self>> {
        let faulty = Self { changes: AtomicUsize::new(0), fault_at, fault, luck };
        Arc::new(Twisted(faulty))
    }

    /// Whether the fault has occurred.
    pub(crate) fn struck(&self) -> bool {
        self.changes.load(Ordering::Relaxed) > self.fault_at
    }

    fn next(&self) -> io::Result<bool> {
        let at = self.changes.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::Fails(errno) if at == self.fault_at => Err(errno.into()),
            Fault::End | Fault::EndHalfway if at > self.fault_at => Err(Errno::IO.into()),
            Fault::End if at == self.fault_at => Err(Errno::IO.into()),
            Fault::EndHalfway if at == self.fault_at => Ok(true),
            _ => Ok(false),
        }
    }

    fn whole(&self) -> io::Result<()> {
        match self.next()? {
            // Only a write can be half done.
            true => Err(Errno::IO.into()),
            false => Ok(()),
        }
    }
}

impl Twist for Faulty {
    fn change(&self) -> io::Result<()> {
        self.whole()
    }

    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        if self.next()? {
            Disk.write(file, &bytes[..bytes.len() / 2])?;
            return Err(Errno::NOSPC.into());
        }
        Disk.write(file, bytes)
    }

    fn unwritten_bytes(&self) -> Option<u64> {
        (self.luck != Luck::Busy).then_some(0)
    }

    fn mount(&self, dir: BorrowedFd<'_>) -> Option<String> {
        if self.luck == Luck::MountedAnew { Some("before".to_owned()) } else { Disk.mount(dir) }
    }

    // The process ends, not the power: what was written can be read, synced or not.
    fn sync(&self) -> io::Result<()> {
        self.whole()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.whole()
    }
}

/// Runs a scenario on a disk with a fault, opens the workspace again, and checks it. Returns
/// `false` if the scenario ended before the fault.
fn strike(scenario: &Scenario, fault_at: usize, fault: Fault, luck: Luck) -> bool {
    let context = format!("{} with {fault:?} at {fault_at}, {luck:?}", scenario.name);
    let temp = memory_dir();
    let path = temp.path().join("ws");
    let mut told = Told::default();
    (scenario.prepare)(&Place::relaxed(&path), &mut told);
    let disk = Faulty::new(fault_at, fault, luck);
    if let Ok((mut ws, recovered)) =
        Workspace::open_on(disk.clone(), &path, Options::default(), now())
    {
        told.recovered(&recovered);
        (scenario.run)(&mut ws, &mut told);
    }
    let struck = disk.struck();
    told.ended = !matches!(fault, Fault::Fails(_));
    told.check_after_restart(&path, &context);
    struck
}

fn strike_everywhere(fault: Fault) {
    for scenario in SCENARIOS {
        for luck in [Luck::Plain, Luck::Busy, Luck::MountedAnew] {
            let mut fault_at = 0;
            while strike(scenario, fault_at, fault, luck) {
                fault_at += 1;
            }
            assert!(fault_at >= 5, "{} changes next to nothing", scenario.name);
        }
    }
}

#[test]
fn the_world_ends_at_any_change() {
    strike_everywhere(Fault::End);
}

#[test]
fn the_world_ends_within_any_write() {
    strike_everywhere(Fault::EndHalfway);
}

#[test]
fn the_disk_is_full_at_any_change() {
    strike_everywhere(Fault::Fails(Errno::NOSPC));
}

#[test]
fn any_change_fails_with_an_input_output_error() {
    strike_everywhere(Fault::Fails(Errno::IO));
}

#[test]
fn any_change_lacks_a_file_descriptor() {
    strike_everywhere(Fault::Fails(Errno::MFILE));
}

/// The process also ends during the recovery from its end.
#[test]
fn the_world_ends_at_any_change_of_any_recovery() {
    for scenario in SCENARIOS {
        let mut fault_at = 0;
        loop {
            let temp = memory_dir();
            let path = temp.path().join("ws");
            let mut told = Told::default();
            (scenario.prepare)(&Place::relaxed(&path), &mut told);
            let disk = Faulty::new(fault_at, Fault::End, Luck::MountedAnew);
            if let Ok((mut ws, _)) =
                Workspace::open_on(disk.clone(), &path, Options::default(), now())
            {
                (scenario.run)(&mut ws, &mut told);
            }
            if !disk.struck() {
                break;
            }
            // Start from the same leftovers for each end of the recovery.
            let mut recovery_fault = 0;
            loop {
                let copy = memory_dir();
                let copied = copy.path().join("ws");
                crate::support::copy_tree(&path, &copied);
                let disk = Faulty::new(recovery_fault, Fault::End, Luck::MountedAnew);
                drop(Workspace::open_on(disk.clone(), &copied, Options::default(), now()));
                let context = format!(
                    "{} ended at {fault_at}, its recovery at {recovery_fault}",
                    scenario.name
                );
                told.ended = true;
                told.clone().check_after_restart(&copied, &context);
                if !disk.struck() {
                    break;
                }
                recovery_fault += 1;
            }
            fault_at += 1;
        }
    }
}
