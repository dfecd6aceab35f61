//! The main loop of a batch: submits lines as jobs, and writes their answers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use threadrunner_client::Daemon;
use threadrunner_core::protocol::{ProcessList, Submission, ask};
use threadrunner_core::{ErrorCode, Failure, FinishReason, JobId, JobIdSource};
use threadrunner_home::machine_number;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::answer;
use crate::counts::Counts;
use crate::defaults::{Defaults, Incomplete};
use crate::error::BatchError;
use crate::fingerprint::Fingerprint;
use crate::input::Line;
use crate::job::{Accepted, Ended, Work, WorkState, carry_out};
use crate::label::{Label, invalid};
use crate::ledger::{Entry, Ledger};
use crate::line::Reader;
use crate::output::{Output, Sink, Syncer};
use crate::plan::{BatchEvent, Plan};
use crate::seen::{Met, Seen};
use crate::window::{MOST_JOBS, Window};

/// How long to wait before retrying a full queue: the first wait, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What [`Batch::next`] does next, without waiting.
#[derive(Debug)]
enum Step {
    Tell(BatchEvent),
    /// Count a line once it is written: by then the caller has written it, too.
    CountAnswer(u32, FinishReason),
    CountFailure,
}

/// A running batch: everything that is under way, and the one place that waits for it.
#[derive(Debug)]
pub struct Batch {
    pub(crate) daemon: Arc<Daemon>,
    lines: mpsc::Receiver<io::Result<Line>>,
    reader: Reader,
    defaults: Defaults,
    pub(crate) sink: Sink,
    pub(crate) syncer: Syncer,
    pub(crate) ledger: Ledger,
    seen: Seen,
    pub(crate) counts: Counts,
    window: Window,
    /// Requests to the daemon for what is loaded.
    asked: JoinSet<Result<ProcessList, Failure>>,
    ids: JobIdSource,
    /// What an earlier run left under way: the slot and the job.
    left: HashMap<Fingerprint, (usize, JobId)>,
    /// Lines under way, by slot.
    pub(crate) slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    pub(crate) tasks: JoinSet<(Work, Ended)>,
    tell: mpsc::Sender<Accepted>,
    pub(crate) accepted: mpsc::Receiver<Accepted>,
    /// Slots whose jobs were submitted but not accepted yet.
    pub(crate) unheard: HashSet<usize>,
    /// How many jobs were canceled because the batch is being stopped.
    pub(crate) canceled: usize,
    /// Lines that found the queue full, and when to retry the first of them. It is also retried
    /// when one of our jobs ends or is accepted, because then there may be room.
    refused: VecDeque<Work>,
    try_at: Instant,
    pause: Duration,
    /// Keys without effect that were told.
    no_effect: HashSet<String>,
    input_ended: bool,
    /// What happened and is not told yet, and what ends the batch after that.
    steps: VecDeque<Step>,
    broken: Option<BatchError>,
}

/// What the loop waits for.
enum Next {
    Line(Line),
    Unreadable(io::Error),
    InputEnded,
    Accepted(Accepted),
    Ended(Box<(Work, Ended)>),
    MayHaveRoom,
    Loaded(ProcessList),
    Broken(String),
    Done,
}

impl Batch {
    /// Begins to read the input, and takes over what an earlier run left under way. Nothing is
    /// submitted before [`Batch::next`].
    ///
    /// # Errors
    /// [`BatchError::Thread`].
    pub fn begin(daemon: Arc<Daemon>, plan: Plan) -> Result<Self, BatchError> {
        let Output { sink, seen, before, ledger, under_way } = plan.output;
        let (tell, accepted) = mpsc::channel(MOST_JOBS);
        let home = daemon.home().clone();
        let machine = machine_number(&home);
        let mut batch = Self {
            daemon,
            lines: plan.input.start()?,
            reader: Reader::default(),
            defaults: Defaults::new(home, plan.defaults, ledger.batch().to_owned()),
            sink,
            syncer: Syncer::default(),
            ledger,
            seen,
            counts: Counts::new(before, plan.total, Instant::now()),
            window: Window::new(plan.at_once),
            asked: JoinSet::new(),
            ids: JobIdSource::new(std::process::id(), machine),
            left: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            tasks: JoinSet::new(),
            tell,
            accepted,
            unheard: HashSet::new(),
            canceled: 0,
            refused: VecDeque::new(),
            try_at: Instant::now(),
            pause: PAUSE.0,
            no_effect: HashSet::new(),
            input_ended: false,
            steps: VecDeque::new(),
            broken: None,
        };
        batch.resume(under_way);
        Ok(batch)
    }

    fn resume(&mut self, under_way: Vec<(usize, Entry)>) {
        for (slot, entry) in under_way {
            if self.slots.len() <= slot {
                self.slots.resize(slot + 1, None);
            }
            self.left.insert(entry.key, (slot, entry.job.clone()));
            self.slots[slot] = Some(entry);
        }
        self.free = (0..self.slots.len()).filter(|&slot| self.slots[slot].is_none()).collect();
    }

    /// The counts so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Works until something happens; `None` once every line is answered, and then
    /// [`Batch::finish`] is due. Dropping the future loses nothing.
    ///
    /// # Errors
    /// No further line can be answered or written. [`Batch::stop`] is due.
    pub async fn next(&mut self) -> Result<Option<BatchEvent>, BatchError> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Ok(Some(self.tell(step)));
            }
            if let Some(error) = self.broken.take() {
                return Err(error);
            }
            let next = self.wait().await;
            if matches!(next, Next::Done) {
                return Ok(None);
            }
            match self.work(next) {
                Ok(()) => self.syncer.now_and_then(&self.sink),
                Err(error) => self.broken = Some(error),
            }
        }
    }

    fn tell(&mut self, step: Step) -> BatchEvent {
        match step {
            Step::Tell(event) => return event,
            Step::CountAnswer(tokens, finish) => {
                self.counts.add_answer(tokens, finish, Instant::now());
            }
            Step::CountFailure => self.counts.add_failure(Instant::now()),
        }
        BatchEvent::Counted
    }

    /// Counts what is in the output file already, though nobody asked for the next event.
    pub(crate) fn count_written(&mut self) {
        while matches!(self.sink, Sink::File(_)) {
            let Some(step) = self.steps.pop_front() else { return };
            self.tell(step);
        }
    }

    fn work(&mut self, next: Next) -> Result<(), BatchError> {
        match next {
            Next::Line(line) => self.line(&line)?,
            Next::InputEnded => self.input_ended = true,
            Next::Unreadable(error) => return Err(BatchError::Reading(error)),
            Next::Accepted(Accepted(slot)) => {
                self.unheard.remove(&slot);
                self.pause = PAUSE.0;
                self.try_again();
            }
            Next::Ended(ended) => {
                self.ended(*ended)?;
                self.ask_what_is_loaded();
            }
            Next::Loaded(list) => self.window.learn(&list),
            Next::MayHaveRoom => self.try_again(),
            Next::Broken(message) => {
                return Err(Failure::new(ErrorCode::Internal, message).into());
            }
            Next::Done => {}
        }
        Ok(())
    }

    fn under_way(&self) -> usize {
        self.tasks.len() + self.refused.len()
    }

    /// Waits for what is next. Dropping the future loses nothing.
    async fn wait(&mut self) -> Next {
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
            line = self.lines.recv(), if room => match line {
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

    fn line(&mut self, line: &Line) -> Result<(), BatchError> {
        let (label, asked) = self.reader.read(line);
        match self.seen.meet(&label.key(), label.line) {
            Met::Answered => return Ok(()),
            Met::Repeats { first } => {
                let failure = invalid(format!("line {first} already has the id {}", label.id));
                return self.fail(&label, failure, None, Some(first));
            }
            Met::New => {}
        }
        let completed = asked.map_err(Incomplete::of_line).and_then(|asked| {
            for key in asked.unknown {
                if self.no_effect.insert(key.clone()) {
                    self.steps
                        .push_back(Step::Tell(BatchEvent::NoEffect { line: label.line, key }));
                }
            }
            self.defaults.complete(&label, asked.submission)
        });
        match completed {
            Ok((submission, general_model)) => self.submit(label, submission, general_model),
            // The model is missing for all of them.
            Err(Incomplete { failure, general_model: true }) => Err(failure.into()),
            Err(Incomplete { failure, .. }) => self.fail(&label, failure, None, None),
        }
    }

    fn submit(
        &mut self,
        label: Label,
        submission: Submission,
        general_model: bool,
    ) -> Result<(), BatchError> {
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
    fn note(&mut self, slot: usize, entry: Entry) -> Result<(), BatchError> {
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

    fn ended(&mut self, (work, ended): (Work, Ended)) -> Result<(), BatchError> {
        self.unheard.remove(&work.slot);
        match ended {
            Ended::Answered { text, end } => {
                let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.write(answer::answered(&work.label, &text, &end, created.as_secs()))?;
                let tokens = end.usage.completion_tokens;
                self.steps.push_back(Step::CountAnswer(tokens, end.finish_reason));
            }
            Ended::Failed { failure, job } => {
                self.fail(&work.label, failure, job.as_ref(), None)?;
            }
            Ended::Unfit => return self.ask_anew(work),
            Ended::Refused => {
                self.refused.push_back(work);
                self.try_at = Instant::now() + self.pause;
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
    fn ask_anew(&mut self, work: Work) -> Result<(), BatchError> {
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

    fn fail(
        &mut self,
        label: &Label,
        failure: Failure,
        job: Option<&JobId>,
        duplicate_of: Option<u64>,
    ) -> Result<(), BatchError> {
        let line = answer::failed(label, &failure, job, duplicate_of);
        self.steps.push_back(Step::Tell(BatchEvent::Failed { line: label.line, failure }));
        self.write(line)?;
        self.steps.push_back(Step::CountFailure);
        Ok(())
    }

    fn write(&mut self, line: Vec<u8>) -> Result<(), BatchError> {
        match &mut self.sink {
            Sink::File(out) => out.append(&line)?,
            Sink::Events => self.steps.push_back(Step::Tell(BatchEvent::Line(line))),
        }
        Ok(())
    }
}
