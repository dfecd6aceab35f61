//! Small work on disks that the daemon does not wait for: one thread does it, in order.

use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};

use crate::last_thread::LastThread;
use crate::states::States;

/// How much may wait for the thread. If its disk does not answer, further work is refused.
const WAITING: usize = 64;

type Errand = Box<dyn FnOnce(&mut States) + Send>;

/// The handle on the thread, which has the cached states of sessions.
#[derive(Debug)]
pub(crate) struct Errands {
    /// `None` once the handle is dropped.
    sender: Option<SyncSender<Errand>>,
    thread: LastThread,
}

impl Errands {
    /// Starts the thread, which ends with the handle. The states are below `root` and have at most
    /// `budget` bytes.
    pub(crate) fn start(root: PathBuf, budget: u64) -> Self {
        let (sender, errands) = sync_channel::<Errand>(WAITING);
        let work = move || {
            let mut states = States::new(root, budget);
            for errand in errands {
                errand(&mut states);
            }
        };
        // Without the thread, all errands are refused.
        let thread = std::thread::Builder::new().name("errands".to_owned()).spawn(work);
        let thread = thread
            .inspect_err(|error| tracing::warn!(%error, "the states of sessions are not kept"));
        Self { sender: Some(sender), thread: LastThread(thread.ok()) }
    }

    /// Has the thread do something. Returns false if it cannot.
    pub(crate) fn run(&self, errand: impl FnOnce(&mut States) + Send + 'static) -> bool {
        let errand: Errand = Box::new(errand);
        self.sender.as_ref().is_some_and(|sender| sender.try_send(errand).is_ok())
    }
}

impl Drop for Errands {
    fn drop(&mut self) {
        self.sender = None;
        self.thread.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_waits_for_a_disk_that_hangs_is_bounded_and_done_when_it_is_back() {
        let directory = tempfile::tempdir().unwrap();
        let errands = Errands::start(directory.path().join("state"), 1);
        let (begun, has_begun) = channel();
        let (back, is_back) = channel::<()>();
        errands.run(move |_| {
            begun.send(()).unwrap();
            let _ = is_back.recv();
        });
        has_begun.recv().unwrap();
        let (done, dones) = channel();
        let taken = (0..2 * WAITING).take_while(|_| {
            let done = done.clone();
            errands.run(move |_| done.send(()).unwrap())
        });
        assert_eq!(taken.count(), WAITING);
        drop(back);
        drop(done);
        assert_eq!(dones.iter().count(), WAITING);
    }
}
