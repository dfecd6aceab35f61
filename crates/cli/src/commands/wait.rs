//! `wait`: waits for jobs to end. The daemon reports changes, so there is no polling.

use std::collections::HashSet;
use std::time::Duration;

use threadrunner_client::{Replies, is_loss};
use threadrunner_core::protocol::{
    Ids, JobRecord, JobsQuery, Op, Progress, ReplyBody, WatchQuery, ask,
};
use threadrunner_core::{
    ErrorCode, ExitCode, Failure, JobId, JobSelector, JobStatus, WorkspaceName,
};
use threadrunner_home::Home;

use super::ids::{from_arguments_or_stdin_within, query};
use crate::args::{WaitArgs, WorkspaceArg};
use crate::error::{CommandError, CommandResult};
use crate::output;
use crate::session::{Limit, Session, strange, with_session};

/// Requests in flight at once: a connection takes 256.
const AT_ONCE: usize = 128;
/// The most records that the daemon lists.
const LISTED: u32 = 10_000;
/// How many times the daemon may go away before this gives up.
const LOSSES: u32 = 20;
/// How much longer to wait after each loss.
const LOSS_PAUSE: Duration = Duration::from_millis(50);
const UNFINISHED: [JobStatus; 2] = [JobStatus::Queued, JobStatus::Running];

/// What to wait for.
enum Target {
    Ids(Vec<JobSelector>),
    All,
    Tag(String),
    Idle,
}

pub(crate) fn run(args: WaitArgs) -> CommandResult {
    let limit = args.timeout.map(|after| Limit::from_now(after, "the jobs continue"));
    let target = match (args.all, args.idle, args.tag) {
        (true, ..) => Target::All,
        (_, true, _) => Target::Idle,
        (.., Some(tag)) => Target::Tag(tag),
        _ => Target::Ids(from_arguments_or_stdin_within(args.ids, limit.as_ref())?),
    };
    with_session(Home::from_env()?, limit, async |session| {
        let mut waiting = Waiting {
            target,
            within: args.within,
            any: args.any,
            json: args.json,
            left: None,
            code: ExitCode::Success,
        };
        let mut losses = 0;
        loop {
            match waiting.until_the_end(session).await {
                Err(CommandError::Failed { failure, .. })
                    if is_loss(&failure) && losses < LOSSES =>
                {
                    // The jobs are on disk, and the next daemon resumes them.
                    losses += 1;
                    session.attend(tokio::time::sleep(LOSS_PAUSE * losses)).await?;
                }
                ended => return ended,
            }
        }
    })
}

/// Asks the daemon to report every change of a job from now on. Also returns how many jobs are
/// queued or running.
pub(super) async fn watch(
    session: &mut Session,
    workspace: Option<&WorkspaceName>,
) -> Result<(Replies, u32), CommandError> {
    let query = WatchQuery { workspace: workspace.cloned() };
    let mut changes = session.open(Op::Watch(query)).await?;
    match session.attempt(changes.next()).await? {
        ReplyBody::Event(Progress::Watching { live }) => Ok((changes, live)),
        _ => Err(strange("it did not confirm that it watches")),
    }
}

struct Waiting {
    target: Target,
    within: WorkspaceArg,
    any: bool,
    json: bool,
    /// The jobs that have not ended; `None` until they are known.
    left: Option<HashSet<JobId>>,
    code: ExitCode,
}

impl Waiting {
    /// Waits with one daemon. Called again, continues with the next one.
    async fn until_the_end(&mut self, session: &mut Session) -> CommandResult {
        // Watch first, then ask, so that no job ends unseen in between.
        let (mut changes, live) = watch(session, self.within.workspace.as_ref()).await?;
        if let Target::Idle = self.target {
            return idle(session, changes, live).await;
        }
        if let Some(code) = self.look(session).await? {
            return Ok(code);
        }
        loop {
            match self.left.as_ref().map_or(0, HashSet::len) {
                0 => return Ok(self.code),
                left => session.spinner.set(waiting_for(left)),
            }
            match session.attempt(changes.next()).await? {
                ReplyBody::Event(Progress::Changed { job, state, .. }) => {
                    let ended = state.is_none_or(JobStatus::is_final);
                    if ended && self.left.as_mut().is_some_and(|left| left.remove(&job)) {
                        self.tell(session, job, state).await?;
                        if self.any {
                            return Ok(self.code);
                        }
                    }
                }
                ReplyBody::Event(Progress::Missed { .. }) => {
                    if let Some(code) = self.look(session).await? {
                        return Ok(code);
                    }
                }
                _ => return Err(strange("it stopped watching")),
            }
        }
    }

    /// Asks for the states of the jobs, and reports those that have ended. Returns an exit code if
    /// there is nothing left to wait for.
    async fn look(&mut self, session: &mut Session) -> Result<Option<ExitCode>, CommandError> {
        let given: Vec<JobSelector> = match (&self.left, &self.target) {
            (Some(left), _) => left.iter().map(JobSelector::from).collect(),
            (None, Target::Ids(ids)) => ids.clone(),
            (None, target) => {
                let tag = match target {
                    Target::Tag(tag) => Some(tag.clone()),
                    Target::Ids(_) | Target::All | Target::Idle => None,
                };
                return self.begin_with_many(session, tag).await;
            }
        };
        let records = records(session, &given, &self.within).await?;
        let mut left = HashSet::new();
        let mut told = HashSet::new();
        for record in records {
            if !record.has_ended() {
                left.insert(record.job);
            } else if told.insert(record.job.clone()) {
                self.print(session, &record)?;
                if self.any {
                    return Ok(Some(self.code));
                }
            }
        }
        self.left = Some(left);
        Ok(None)
    }

    /// Finds the jobs if they are not named one by one. With a tag, jobs that have ended count too:
    /// a job may have failed between its submission and this call.
    async fn begin_with_many(
        &mut self,
        session: &mut Session,
        tag: Option<String>,
    ) -> Result<Option<ExitCode>, CommandError> {
        let of = |states: &[JobStatus]| JobsQuery {
            states: states.to_vec(),
            tag: tag.clone(),
            ids: true,
            workspace: self.within.workspace.clone(),
            ..JobsQuery::default()
        };
        let unfinished = session.call(Ids(of(&UNFINISHED))).await?;
        let mut left: HashSet<JobId> = unfinished.ids.into_iter().collect();
        if self.any {
            if left.is_empty() {
                let message = "there is no job to wait for: all have ended";
                return Err(Failure::new(ErrorCode::JobNotFound, message).into());
            }
        } else if tag.is_some() {
            let failed = JobsQuery {
                ids: false,
                limit: Some(LISTED),
                ..of(&[JobStatus::Failed, JobStatus::Canceled])
            };
            let failed = session.call(ask::Jobs(failed)).await?;
            let done = session.call(Ids(of(&[JobStatus::Done]))).await?;
            for record in failed.jobs.iter().rev() {
                left.remove(&record.job);
                self.print(session, record)?;
            }
            for job in done.ids.into_iter().rev() {
                left.remove(&job);
                self.tell(session, job, Some(JobStatus::Done)).await?;
            }
        }
        self.left = Some(left);
        Ok(None)
    }

    /// Reports a job that has ended.
    async fn tell(
        &mut self,
        session: &mut Session,
        job: JobId,
        state: Option<JobStatus>,
    ) -> Result<(), CommandError> {
        if state == Some(JobStatus::Done) && !self.json {
            // Only the id is printed, so there is no need to ask for the record.
            session.spinner.hide();
            return Ok(output::print(&format!("{job}\n"))?);
        }
        match session.call(ask::Job((&job).into())).await {
            Ok(record) => self.print(session, &record),
            Err(CommandError::Failed { failure, job })
                if failure.code == ErrorCode::JobNotFound =>
            {
                self.code = ExitCode::NotFound;
                output::report(&CommandError::Failed { failure, job }, self.json);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn print(&mut self, session: &mut Session, record: &JobRecord) -> Result<(), CommandError> {
        session.spinner.hide();
        match self.json {
            true => output::print_json(record)?,
            false => output::print(&format!("{}\n", record.job))?,
        }
        if record.state != JobStatus::Done {
            self.code = ExitCode::Failed;
            if let (false, Some(failure)) = (self.json, &record.meta.error) {
                output::say(&format!("threadrunner: job {}: {failure}", record.job));
            }
        }
        Ok(())
    }
}

/// Waits until nothing is queued or running.
async fn idle(session: &mut Session, mut changes: Replies, mut live: u32) -> CommandResult {
    let unfinished = JobsQuery { states: UNFINISHED.to_vec(), ids: true, ..JobsQuery::default() };
    loop {
        if live == 0 {
            // The daemon may not have taken in yet what was on disk before it started.
            let listed = session.call(Ids(unfinished.clone())).await?;
            let mut waited = false;
            for job in listed.ids {
                match session.call(ask::Wait((&job).into())).await {
                    Ok(record) => waited |= record.has_ended(),
                    // It ended and was removed meanwhile.
                    Err(CommandError::Failed { failure, .. })
                        if failure.code == ErrorCode::JobNotFound =>
                    {
                        waited = true;
                    }
                    Err(error) => return Err(error),
                }
            }
            if !waited {
                return Ok(ExitCode::Success);
            }
            (changes, live) = watch(session, None).await?;
            continue;
        }
        session.spinner.set(waiting_for(live as usize));
        match session.attempt(changes.next()).await? {
            ReplyBody::Event(Progress::Changed { live: now, .. }) => live = now,
            ReplyBody::Event(Progress::Missed { .. }) => {
                (changes, live) = watch(session, None).await?
            }
            _ => return Err(strange("it stopped watching")),
        }
    }
}

/// Fetches the records of jobs, many at a time.
async fn records(
    session: &mut Session,
    ids: &[JobSelector],
    within: &WorkspaceArg,
) -> Result<Vec<JobRecord>, CommandError> {
    let daemon = session.daemon();
    let mut records = Vec::with_capacity(ids.len());
    for some in ids.chunks(AT_ONCE) {
        let asking = async {
            let client = daemon.connect_or_start().await?;
            let mut asked = Vec::with_capacity(some.len());
            for id in some {
                asked.push(client.request(ask::Job(query(id.clone(), within))).await?);
            }
            let mut records = Vec::with_capacity(asked.len());
            for replies in asked {
                records.push(replies.into_answer::<ask::Job>().await?);
            }
            Ok::<_, Failure>(records)
        };
        records.append(&mut session.attempt(asking).await?);
    }
    Ok(records)
}

fn waiting_for(jobs: usize) -> String {
    match jobs {
        1 => "waiting for 1 job".to_owned(),
        jobs => format!("waiting for {jobs} jobs"),
    }
}
