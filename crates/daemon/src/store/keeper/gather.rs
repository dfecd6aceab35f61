//! How operations form groups that share one sync.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use super::{Keeper, Operation};

/// The maximum number of operations that share a sync.
const GROUP: usize = 256;

/// A group waits at most a sync's time divided by this for the submissions that are missing. With
/// as many clients as before it rarely waits that long: they were just answered and submit again at
/// once.
const PATIENCE: u32 = 4;
/// The longest wait of a group, even after an exceptionally slow sync.
const MOST_PATIENCE: Duration = Duration::from_millis(5);

/// The recent pace of submissions.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The number of submissions in each of the last two groups.
    groups: [usize; 2],
    /// How long a group waits.
    patience: Duration,
}

impl Pace {
    /// Notes how long a sync took.
    pub(super) fn synced(&mut self, time: Duration) {
        self.patience = (time / PATIENCE).min(MOST_PATIENCE);
    }
}

impl Keeper {
    /// Prepares the operations that have come, and those that come meanwhile. What comes during the
    /// sync forms the next group.
    ///
    /// Clients that each submit one job after another would fall into two groups that alternate: of
    /// eight clients, the first is synced alone while the other seven wait. So a group of nothing
    /// but submissions that is smaller than the last two waits a little for the others.
    pub(super) fn gather(&mut self, first: Option<Operation>, operations: &Receiver<Operation>) {
        let mut submissions = Some(0);
        for operation in first.into_iter().chain(operations.try_iter()).take(GROUP) {
            self.count_and_prepare(operation, &mut submissions);
        }
        let expected = self.pace.groups.into_iter().max().unwrap_or_default();
        let until = Instant::now() + self.pace.patience;
        while submissions.is_some_and(|there| there > 0 && there < expected) {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(operation) = operations.recv_timeout(left) else { break };
            self.count_and_prepare(operation, &mut submissions);
        }
        self.pace.groups = [submissions.unwrap_or_default(), self.pace.groups[0]];
    }

    /// Prepares an operation. Counts submissions until another kind of operation comes.
    fn count_and_prepare(&mut self, operation: Operation, submissions: &mut Option<usize>) {
        let counted = matches!(operation, Operation::Submit(_));
        *submissions = submissions.filter(|_| counted).map(|there| there + 1);
        self.prepare(operation, SystemTime::now());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use threadrunner_core::{JobMeta, JobSpec};
    use threadrunner_workspace::{Options, Workspace};

    use super::*;
    use crate::store::Submission;
    use crate::store::WorkspaceId;

    /// A keeper that waits for hours for a second submission.
    struct Patient {
        keeper: Keeper,
        operations: mpsc::Sender<Operation>,
        incoming: Receiver<Operation>,
        _temp: tempfile::TempDir,
    }

    impl Patient {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let (workspace, _) =
                Workspace::open(temp.path(), Options::default(), SystemTime::now()).unwrap();
            let (events, _) = tokio::sync::mpsc::channel(8);
            let mut keeper = Keeper::new(WorkspaceId(0), workspace, Vec::new(), events);
            keeper.pace = Pace { groups: [1, 2], patience: Duration::from_secs(100_000) };
            let (operations, incoming) = mpsc::channel();
            Self { keeper, operations, incoming, _temp: temp }
        }

        fn submission(&mut self) -> Operation {
            Operation::Submit(Box::new(Submission {
                id: self.keeper.workspace.next_id(SystemTime::now()),
                is_chosen: false,
                prompt: "hi".to_owned(),
                spec: JobSpec::default(),
                meta: JobMeta::default(),
                claim: false,
            }))
        }

        /// Gathers a group that starts with a submission while `then` arrives. Returns how many
        /// jobs it has.
        fn gather(&mut self, then: Option<Operation>) -> usize {
            let first = self.submission();
            let operations = self.operations.clone();
            let sender = std::thread::spawn(move || {
                then.into_iter().for_each(|operation| operations.send(operation).unwrap());
            });
            self.keeper.gather(Some(first), &self.incoming);
            sender.join().unwrap();
            self.keeper.pending.len()
        }
    }

    #[test]
    fn a_group_waits_for_as_many_as_came_lately() {
        let mut it = Patient::new();
        let second = it.submission();
        assert_eq!(it.gather(Some(second)), 2);
    }

    #[test]
    fn what_is_no_submission_waits_for_nobody() {
        assert_eq!(Patient::new().gather(Some(Operation::List(None))), 1);
    }

    #[test]
    fn one_slow_sync_makes_nobody_wait_long() {
        let mut pace = Pace::default();
        pace.synced(Duration::from_millis(2));
        assert_eq!(pace.patience, Duration::from_micros(500));
        pace.synced(Duration::from_secs(60));
        assert_eq!(pace.patience, MOST_PATIENCE);
    }

    #[test]
    fn one_client_waits_for_nobody() {
        let mut it = Patient::new();
        it.keeper.pace.groups = [1, 1];
        assert_eq!(it.gather(None), 1);
    }
}
