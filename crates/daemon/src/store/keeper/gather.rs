//! The beginning of a group: what comes together shares a sync.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use super::{Keeper, Operation};

/// The most operations that share a sync.
const GROUP: usize = 256;

/// The part of a sync's time that a group waits for who is missing. With as many clients as before
/// it rarely comes to that: they were just answered and ask again at once.
const PATIENCE: u32 = 4;
/// The most that it waits, also where a sync took long for once.
const MOST_PATIENCE: Duration = Duration::from_millis(5);

/// How submissions came lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// How many were in each of the last two groups.
    groups: [usize; 2],
    /// How long a group waits.
    patience: Duration,
}

impl Pace {
    /// A sync took so long.
    pub(super) fn synced(&mut self, time: Duration) {
        self.patience = (time / PATIENCE).min(MOST_PATIENCE);
    }
}

impl Keeper {
    /// Prepares what has come, and what comes meanwhile. What comes while it is synced makes the
    /// next group.
    ///
    /// Clients that each submit one job after the other would fall into two groups that wait for
    /// each other: of eight, one that came first is synced alone while seven wait. So a group of
    /// nothing but submissions that is smaller than the last ones waits a little for the others.
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

    /// Counts for as long as nothing but submissions comes.
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
    use crate::workspaces::WorkspaceId;

    /// A keeper that waits for hours for a second submission, and what it is told.
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

        /// How many jobs are in the group that begins with a submission, while `then` comes.
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
        assert_eq!(Patient::new().gather(Some(Operation::List)), 1);
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
