//! The batch at work: one place that waits, and what is under way.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use threadrunner_client::Daemon;
use threadrunner_core::protocol::{JobList, JobsQuery, Op, Submission};
use threadrunner_core::{ErrorCode, Failure, JobId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::answer;
use super::defaults::{Defaults, Incomplete, line_tag};
use super::input::Line;
use super::job::{Accepted, Ended, LOSSES, Work, WorkState, carry_out};
use super::keys::Fingerprint;
use super::ledger::{Entry, Ledger};
use super::line::{self, Label};
use super::progress::Counts;
use super::seen::{Met, Seen};
use super::sink::{Sink, Syncer};
use crate::app::Session;
use crate::commands::wait::is_loss;
use crate::error::{CommandError, CommandResult};
use crate::output;

/// The most jobs that the daemon lists at once.
const LISTED: u32 = 10_000;
/// How long to wait before a full queue is tried again, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A batch at work.
pub(super) struct Runner {
    pub(super) daemon: Arc<Daemon>,
    defaults: Defaults,
    pub(super) sink: Sink,
    syncer: Syncer,
    pub(super) ledger: Ledger,
    seen: Seen,
    pub(super) counts: Counts,
    concurrency: usize,
    /// What an earlier run left under way: its slot, and its job where that was told.
    left: HashMap<Fingerprint, (usize, Option<JobId>)>,
    /// What is under way, by slot.
    pub(super) slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    pub(super) tasks: JoinSet<(Work, Ended)>,
    tell: mpsc::Sender<Accepted>,
    pub(super) accepted: mpsc::Receiver<Accepted>,
    /// Lines that found the queue full, and when the first of them is tried again. It is also when
    /// a job of ours has ended, or another was accepted: then there is room, or was.
    refused: VecDeque<Work>,
    try_at: Instant,
    pause: Duration,
    /// Lines of which it is not known whether they have a job.
    unsure: Vec<Work>,
    /// The listing that will tell, for how many of them.
    listing: Option<(usize, tokio::task::JoinHandle<Result<JobList, Failure>>)>,
    /// How often the daemon went away while it listed.
    losses: u32,
    /// Keys of lines that nobody understood: each is told once.
    unknown: Vec<String>,
    input_ended: bool,
}

/// What happens next.
enum Next {
    Line(Line),
    Unreadable(std::io::Error),
    InputEnded,
    Accepted(Accepted),
    Ended(Box<(Work, Ended)>),
    Listed(Result<JobList, Failure>),
    MayHaveRoom,
    Broken(String),
    Done,
}

impl Runner {
    pub(super) fn new(
        session: &Session,
        defaults: Defaults,
        sink: Sink,
        ledger: Ledger,
        seen: Seen,
        counts: Counts,
        concurrency: usize,
    ) -> Self {
        let (tell, accepted) = mpsc::channel(concurrency);
        Self {
            daemon: session.daemon(),
            defaults,
            sink,
            syncer: Syncer::default(),
            ledger,
            seen,
            counts,
            concurrency,
            left: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            tasks: JoinSet::new(),
            tell,
            accepted,
            refused: VecDeque::new(),
            try_at: Instant::now(),
            pause: PAUSE.0,
            unsure: Vec::new(),
            listing: None,
            losses: 0,
            unknown: Vec::new(),
            input_ended: false,
        }
    }

    /// The same, with what an earlier run left under way.
    pub(super) fn resume(mut self, under_way: Vec<(usize, Entry)>) -> Self {
        for (slot, entry) in under_way {
            if self.slots.len() <= slot {
                self.slots.resize(slot + 1, None);
            }
            self.left.insert(entry.key, (slot, entry.job.clone()));
            self.slots[slot] = Some(entry);
        }
        self.free = (0..self.slots.len()).filter(|&slot| self.slots[slot].is_none()).collect();
        self
    }

    /// Works until every line has its answer.
    pub(super) async fn run(
        mut self,
        session: &mut Session,
        mut lines: mpsc::Receiver<std::io::Result<Line>>,
    ) -> CommandResult {
        match self.work(session, &mut lines).await {
            Ok(()) => self.finish(session),
            Err(error) => {
                session.spinner.end();
                self.leave(session, &error).await;
                Err(error)
            }
        }
    }

    async fn work(
        &mut self,
        session: &mut Session,
        lines: &mut mpsc::Receiver<std::io::Result<Line>>,
    ) -> Result<(), CommandError> {
        loop {
            session.spinner.set(self.counts.label(Instant::now()));
            match session.attend(self.next(lines)).await? {
                Next::Line(line) => self.line(session, &line).await?,
                Next::InputEnded => self.input_ended = true,
                Next::Unreadable(error) => {
                    let message = format!("cannot read the input: {error}");
                    return Err(Failure::new(ErrorCode::Io, message).into());
                }
                Next::Accepted(accepted) => {
                    self.accepted(accepted)?;
                    self.try_again();
                }
                Next::Ended(ended) => self.ended(session, *ended).await?,
                Next::Listed(list) => self.listed(list)?,
                Next::MayHaveRoom => self.try_again(),
                Next::Broken(message) => {
                    let code = ErrorCode::Internal;
                    return Err(Failure::new(code, message).into());
                }
                Next::Done => return Ok(()),
            }
            self.syncer.now_and_then(&self.sink);
            self.list_if_unsure();
        }
    }

    fn under_way(&self) -> usize {
        self.tasks.len() + self.unsure.len() + self.refused.len()
    }

    /// Waits. Dropping the future loses nothing.
    async fn next(&mut self, lines: &mut mpsc::Receiver<std::io::Result<Line>>) -> Next {
        if self.input_ended && self.under_way() == 0 {
            return Next::Done;
        }
        let room =
            !self.input_ended && self.refused.is_empty() && self.under_way() < self.concurrency;
        let listing = async {
            match &mut self.listing {
                Some((_, listing)) => listing.await,
                None => std::future::pending().await,
            }
        };
        // A job is noted before its end is.
        tokio::select! {
            biased;
            Some(accepted) = self.accepted.recv() => Next::Accepted(accepted),
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(ended) => Next::Ended(Box::new(ended)),
                Err(error) => Next::Broken(error.to_string()),
            },
            listed = listing => match listed {
                Ok(list) => Next::Listed(list),
                Err(error) => Next::Broken(error.to_string()),
            },
            () = sleep_until(self.try_at), if !self.refused.is_empty() => Next::MayHaveRoom,
            line = lines.recv(), if room => match line {
                Some(Ok(line)) => Next::Line(line),
                Some(Err(error)) => Next::Unreadable(error),
                None => Next::InputEnded,
            },
        }
    }

    async fn line(&mut self, session: &mut Session, line: &Line) -> Result<(), CommandError> {
        let (label, asked) = line::read(line);
        match self.seen.meet(&label.key(), label.line) {
            Met::Answered => return Ok(()),
            Met::Repeats { first } => {
                let message = format!("the id {} is that of line {first} too", label.id);
                let failure = line::invalid(message);
                return self.refuse(session, &label, &failure, Some(first)).await;
            }
            Met::New => {}
        }
        let completed = asked.map_err(Incomplete::of_line).and_then(|asked| {
            for key in asked.unknown {
                if !self.unknown.contains(&key) {
                    session.spinner.hide();
                    let line = label.line;
                    output::say(&format!("line {line}: {key:?} is ignored, here and elsewhere"));
                    self.unknown.push(key);
                }
            }
            self.defaults.complete(&label, asked.submission)
        });
        match completed {
            Ok((submission, general_model)) => self.begin(label, submission, general_model),
            // It is missing for all of them.
            Err(Incomplete { failure, general_model: true }) => Err(failure.into()),
            Err(Incomplete { failure, .. }) => self.refuse(session, &label, &failure, None).await,
        }
    }

    fn begin(
        &mut self,
        label: Label,
        submission: Submission,
        general_model: bool,
    ) -> Result<(), CommandError> {
        let asked = serde_json::to_string(&submission).unwrap_or_default();
        let key = Fingerprint::of(&format!("{} {asked}", label.key()));
        let (slot, state) = match self.left.remove(&key) {
            Some((slot, Some(job))) => (slot, WorkState::Theirs(job)),
            Some((slot, None)) => (slot, WorkState::Unsure),
            None => {
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.slots.push(None);
                    self.slots.len() - 1
                });
                let entry = Entry { key, line: label.line, job: None };
                self.ledger.note(slot, Some(&entry))?;
                self.slots[slot] = Some(entry);
                (slot, WorkState::New)
            }
        };
        let work = Work { slot, label, submission, general_model, state, losses: 0 };
        self.spawn(work);
        Ok(())
    }

    fn spawn(&mut self, mut work: Work) {
        let (daemon, tell) = (Arc::clone(&self.daemon), self.tell.clone());
        self.tasks.spawn(async move {
            let ended = carry_out(&daemon, &mut work, &tell).await;
            (work, ended)
        });
    }

    pub(super) fn accepted(&mut self, accepted: Accepted) -> Result<(), Failure> {
        let Some(entry) = self.slots.get_mut(accepted.slot).and_then(Option::as_mut) else {
            return Ok(());
        };
        entry.job = Some(accepted.job);
        self.pause = PAUSE.0;
        self.ledger.note(accepted.slot, Some(entry))
    }

    async fn ended(
        &mut self,
        session: &mut Session,
        (work, ended): (Work, Ended),
    ) -> Result<(), CommandError> {
        let now = Instant::now();
        match ended {
            Ended::Answered { text, end } => {
                let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let line = answer::answered(&work.label, &text, &end, created.as_secs());
                self.sink.write(session, &line).await?;
                self.counts.answered(end.usage.completion_tokens, now);
            }
            Ended::Failed { failure, job } => {
                self.fail(session, &work.label, &failure, job.as_ref(), None).await?;
            }
            Ended::Unsure => {
                self.unsure.push(work);
                return Ok(());
            }
            Ended::Refused => {
                self.refused.push_back(work);
                self.try_at = now + self.pause;
                self.pause = (self.pause * 2).min(PAUSE.1);
                return Ok(());
            }
            Ended::Hopeless(failure) => return Err(failure.into()),
        }
        // After its line is written: killed in between, the next run finds the line.
        self.ledger.note(work.slot, None)?;
        self.slots[work.slot] = None;
        self.free.push(work.slot);
        self.try_again();
        Ok(())
    }

    /// Tries one line again that found the queue full.
    fn try_again(&mut self) {
        self.try_at = Instant::now() + self.pause;
        if let Some(work) = self.refused.pop_front() {
            self.spawn(work);
        }
    }

    async fn refuse(
        &mut self,
        session: &mut Session,
        label: &Label,
        failure: &Failure,
        duplicate_of: Option<u64>,
    ) -> Result<(), CommandError> {
        self.fail(session, label, failure, None, duplicate_of).await
    }

    async fn fail(
        &mut self,
        session: &mut Session,
        label: &Label,
        failure: &Failure,
        job: Option<&JobId>,
        duplicate_of: Option<u64>,
    ) -> Result<(), CommandError> {
        session.spinner.hide();
        output::say(&format!("line {}: {failure}", label.line));
        let line = answer::failed(label, failure, job, duplicate_of);
        self.sink.write(session, &line).await?;
        self.counts.failed(Instant::now());
        Ok(())
    }

    /// Asks once for all lines of which it is not known whether they have a job.
    fn list_if_unsure(&mut self) {
        if self.unsure.is_empty() || self.listing.is_some() {
            return;
        }
        let query = JobsQuery {
            tag: Some(self.ledger.batch().to_owned()),
            limit: Some(LISTED),
            ..JobsQuery::default()
        };
        let daemon = Arc::clone(&self.daemon);
        let listing = tokio::spawn(async move { daemon.call(Op::Jobs(query)).await });
        self.listing = Some((self.unsure.len(), listing));
    }

    /// Lines whose job is found go on with it, and the others begin.
    fn listed(&mut self, list: Result<JobList, Failure>) -> Result<(), Failure> {
        let Some((count, _)) = self.listing.take() else { return Ok(()) };
        let list = match list {
            Ok(list) => list,
            // The daemon went away again; the next one is asked.
            Err(failure) if is_loss(&failure) && self.losses < LOSSES => {
                self.losses += 1;
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        let mut found = HashMap::new();
        // Oldest first, so that of two the newer one stays.
        for record in list.jobs.into_iter().rev() {
            for tag in &record.meta.tags {
                found.insert(tag.clone(), record.job.clone());
            }
        }
        for mut work in self.unsure.drain(..count).collect::<Vec<_>>() {
            work.state = match found.remove(&line_tag(work.label.line)) {
                Some(job) => {
                    self.accepted(Accepted { slot: work.slot, job: job.clone() })?;
                    WorkState::Theirs(job)
                }
                None => WorkState::New,
            };
            self.spawn(work);
        }
        Ok(())
    }
}
