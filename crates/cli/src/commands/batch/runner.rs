//! The main loop of a batch: submits lines as jobs, and writes their answers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use threadrunner_client::Daemon;
use threadrunner_core::protocol::{ProcessList, Submission, ask};
use threadrunner_core::{ErrorCode, Failure, JobId, JobIdSource};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::answer;
use super::defaults::{Defaults, Incomplete};
use super::input::Line;
use super::job::{Accepted, Ended, Work, WorkState, carry_out};
use super::keys::Fingerprint;
use super::label::{Label, invalid};
use super::ledger::{Entry, Ledger};
use super::line;
use super::progress::Counts;
use super::seen::{Met, Seen};
use super::sink::{Sink, Syncer};
use super::window::{self, Window};
use crate::error::{CommandError, CommandResult};
use crate::output;
use crate::session::Session;

/// How long to wait before retrying a full queue: the first wait, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A running batch: everything that is under way, and the one place that waits for it.
pub(super) struct Runner {
    pub(super) daemon: Arc<Daemon>,
    defaults: Defaults,
    pub(super) sink: Sink,
    syncer: Syncer,
    pub(super) ledger: Ledger,
    seen: Seen,
    pub(super) counts: Counts,
    window: Window,
    /// Requests to the daemon for what is loaded.
    asked: JoinSet<Result<ProcessList, Failure>>,
    ids: JobIdSource,
    /// What an earlier run left under way: the slot and the job.
    left: HashMap<Fingerprint, (usize, JobId)>,
    /// Lines under way, by slot.
    pub(super) slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    pub(super) tasks: JoinSet<(Work, Ended)>,
    tell: mpsc::Sender<Accepted>,
    pub(super) accepted: mpsc::Receiver<Accepted>,
    /// Slots whose jobs were submitted but not accepted yet.
    pub(super) unheard: HashSet<usize>,
    /// Lines that found the queue full, and when to retry the first of them. It is also retried
    /// when one of our jobs ends or is accepted, because then there may be room.
    refused: VecDeque<Work>,
    try_at: Instant,
    pause: Duration,
    /// Unknown keys that were reported: each is reported once.
    unknown: Vec<String>,
    input_ended: bool,
}

/// The next event of the loop.
enum Next {
    Line(Line),
    Unreadable(std::io::Error),
    InputEnded,
    Accepted(Accepted),
    Ended(Box<(Work, Ended)>),
    MayHaveRoom,
    Loaded(ProcessList),
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
        window: Window,
    ) -> Self {
        let (tell, accepted) = mpsc::channel(window::MOST);
        Self {
            daemon: session.daemon(),
            defaults,
            sink,
            syncer: Syncer::default(),
            ledger,
            seen,
            counts,
            window,
            asked: JoinSet::new(),
            ids: JobIdSource::new(std::process::id()),
            left: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            tasks: JoinSet::new(),
            tell,
            accepted,
            unheard: HashSet::new(),
            refused: VecDeque::new(),
            try_at: Instant::now(),
            pause: PAUSE.0,
            unknown: Vec::new(),
            input_ended: false,
        }
    }

    /// Takes over what an earlier run left under way.
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

    /// Works until every line is answered.
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
                Next::Accepted(Accepted(slot)) => {
                    self.unheard.remove(&slot);
                    self.pause = PAUSE.0;
                    self.try_again();
                }
                Next::Ended(ended) => {
                    self.ended(session, *ended).await?;
                    self.ask_what_is_loaded();
                }
                Next::Loaded(list) => self.window.learn(&list),
                Next::MayHaveRoom => self.try_again(),
                Next::Broken(message) => {
                    let code = ErrorCode::Internal;
                    return Err(Failure::new(code, message).into());
                }
                Next::Done => return Ok(()),
            }
            self.syncer.now_and_then(&self.sink);
        }
    }

    fn under_way(&self) -> usize {
        self.tasks.len() + self.refused.len()
    }

    /// Waits for the next event. Dropping the future loses nothing.
    async fn next(&mut self, lines: &mut mpsc::Receiver<std::io::Result<Line>>) -> Next {
        if self.input_ended && self.under_way() == 0 {
            return Next::Done;
        }
        let room =
            !self.input_ended && self.refused.is_empty() && self.under_way() < self.window.size();
        // In this order, because a job is accepted before it ends.
        tokio::select! {
            biased;
            Some(accepted) = self.accepted.recv() => Next::Accepted(accepted),
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(ended) => Next::Ended(Box::new(ended)),
                Err(error) => Next::Broken(error.to_string()),
            },
            Some(Ok(Ok(list))) = self.asked.join_next() => Next::Loaded(list),
            () = sleep_until(self.try_at), if !self.refused.is_empty() => Next::MayHaveRoom,
            line = lines.recv(), if room => match line {
                Some(Ok(line)) => Next::Line(line),
                Some(Err(error)) => Next::Unreadable(error),
                None => Next::InputEnded,
            },
        }
    }

    /// Asks what is loaded, after a job has ended and so a model must be. A daemon that does not
    /// answer is asked again later.
    fn ask_what_is_loaded(&mut self) {
        if self.window.asks(Instant::now()) {
            let daemon = Arc::clone(&self.daemon);
            self.asked.spawn(async move { daemon.call(ask::Ps).await });
        }
    }

    async fn line(&mut self, session: &mut Session, line: &Line) -> Result<(), CommandError> {
        let (label, asked) = line::read(line);
        match self.seen.meet(&label.key(), label.line) {
            Met::Answered => return Ok(()),
            Met::Repeats { first } => {
                let message = format!("line {first} already has the id {}", label.id);
                let failure = invalid(message);
                return self.refuse(session, &label, &failure, Some(first)).await;
            }
            Met::New => {}
        }
        let completed = asked.map_err(Incomplete::of_line).and_then(|asked| {
            for key in asked.unknown {
                if !self.unknown.contains(&key) {
                    session.spinner.hide();
                    let line = label.line;
                    output::say(&format!(
                        "line {line}: the key {key:?} has no effect, here and in other lines"
                    ));
                    self.unknown.push(key);
                }
            }
            self.defaults.complete(&label, asked.submission)
        });
        match completed {
            Ok((submission, general_model)) => self.begin(label, submission, general_model),
            // The model is missing for all of them.
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
        let (slot, job, state) = match self.left.remove(&key) {
            Some((slot, job)) => (slot, job, WorkState::Theirs),
            None => {
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.slots.push(None);
                    self.slots.len() - 1
                });
                let job = self.ids.next_at(SystemTime::now());
                self.note(slot, Entry { key, line: label.line, job: job.clone() })?;
                (slot, job, WorkState::New)
            }
        };
        let work = Work { slot, label, submission, general_model, job, state, losses: 0 };
        self.spawn(work);
        Ok(())
    }

    /// Records a job before it is submitted, so that the next run knows of it.
    fn note(&mut self, slot: usize, entry: Entry) -> Result<(), Failure> {
        self.ledger.note(slot, Some(&entry))?;
        self.slots[slot] = Some(entry);
        Ok(())
    }

    fn spawn(&mut self, mut work: Work) {
        if work.state == WorkState::New {
            self.unheard.insert(work.slot);
        }
        let (daemon, tell) = (Arc::clone(&self.daemon), self.tell.clone());
        self.tasks.spawn(async move {
            let ended = carry_out(&daemon, &mut work, &tell).await;
            (work, ended)
        });
    }

    async fn ended(
        &mut self,
        session: &mut Session,
        (work, ended): (Work, Ended),
    ) -> Result<(), CommandError> {
        let now = Instant::now();
        self.unheard.remove(&work.slot);
        match ended {
            Ended::Answered { text, end } => {
                let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let line = answer::answered(&work.label, &text, &end, created.as_secs());
                self.sink.write(session, &line).await?;
                self.counts.answered(end.usage.completion_tokens, end.finish_reason, now);
            }
            Ended::Failed { failure, job } => {
                self.fail(session, &work.label, &failure, job.as_ref(), None).await?;
            }
            Ended::Unfit => return Ok(self.ask_anew(work)?),
            Ended::Refused => {
                self.refused.push_back(work);
                self.try_at = now + self.pause;
                self.pause = (self.pause * 2).min(PAUSE.1);
                return Ok(());
            }
            Ended::Hopeless(failure) => return Err(failure.into()),
        }
        // Only once the line is written: after a kill in between, the next run finds the line.
        self.ledger.note(work.slot, None)?;
        self.slots[work.slot] = None;
        self.free.push(work.slot);
        self.try_again();
        Ok(())
    }

    /// Submits another job for a line.
    fn ask_anew(&mut self, work: Work) -> Result<(), Failure> {
        let job = self.ids.next_at(SystemTime::now());
        if let Some(entry) = self.slots[work.slot].take() {
            self.note(work.slot, Entry { job: job.clone(), ..entry })?;
        }
        self.spawn(Work { job, state: WorkState::New, ..work });
        Ok(())
    }

    /// Retries one line that found the queue full.
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
}
