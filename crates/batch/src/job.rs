//! Runs the job of one line to its end, across restarts of the daemon.

use std::sync::Arc;
use std::time::Duration;

use threadrunner_client::{Daemon, Replies, is_loss};
use threadrunner_core::protocol::{
    EndFrame, FollowQuery, JobQuery, JobRecord, Op, Progress, ReplyBody, Submission, ask,
};
use threadrunner_core::{ErrorCode, Failure, JobId, JobState};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::defaults::Defaults;
use crate::label::Label;

/// How many times a line may lose the daemon before the batch gives up.
pub(crate) const LOSSES: u32 = 20;
/// How much longer to wait after each loss, to go easy on a daemon that keeps dying.
const LOSS_PAUSE: Duration = Duration::from_millis(50);

/// A line under way.
#[derive(Debug)]
pub(crate) struct Work {
    /// Its slot in the ledger.
    pub(crate) slot: usize,
    pub(crate) label: Label,
    pub(crate) submission: Submission,
    /// Whether the model is the batch's rather than the line's.
    pub(crate) general_model: bool,
    pub(crate) job: JobId,
    pub(crate) state: WorkState,
    /// How many times it lost the daemon.
    pub(crate) losses: u32,
}

/// Whether the job of a line exists, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkState {
    /// It was not submitted.
    New,
    /// This run submitted it, and the daemon may have received it.
    Asked,
    /// An earlier run that was stopped may have submitted it.
    Theirs,
}

/// The daemon has accepted the job in this slot.
#[derive(Debug)]
pub(crate) struct Accepted(pub(crate) usize);

/// How a job ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Answered {
        text: String,
        end: Box<EndFrame>,
    },
    Failed {
        failure: Failure,
        job: Option<JobId>,
    },
    /// The line needs another job: this one was canceled when the last run was stopped, or its id
    /// belongs to another job.
    Unfit,
    /// The queue is full.
    Refused,
    /// No line can be answered any more.
    Hopeless(Failure),
}

/// Why one attempt ended without an answer.
enum Stopped {
    /// The job failed, or the daemon refused the request.
    Failed { failure: Failure, job: Option<JobId> },
    /// The connection or the daemon is gone.
    Lost(Failure),
    /// The job that an earlier run recorded is not this line's.
    Foreign,
}

/// Runs the job of a line to its end.
pub(crate) async fn carry_out(
    daemon: &Arc<Daemon>,
    work: &mut Work,
    tell: &mpsc::Sender<Accepted>,
) -> Ended {
    let mut clashed = false;
    loop {
        let asked = work.state != WorkState::New;
        let stopped = match work.state {
            WorkState::New => begin(daemon, work, tell).await,
            WorkState::Asked | WorkState::Theirs => match resume(daemon, work, clashed).await {
                // The daemon never received it, or it was removed. If the first request arrives
                // only now, this one is refused, because an id names one job.
                Err(Stopped::Failed { failure, job: None })
                    if failure.code == ErrorCode::JobNotFound =>
                {
                    begin(daemon, work, tell).await
                }
                followed => followed,
            },
        };
        let (failure, job) = match stopped {
            Ok((text, end)) => return Ended::Answered { text, end: Box::new(end) },
            Err(Stopped::Failed { failure, job }) => (failure, job),
            Err(Stopped::Foreign) => return Ended::Unfit,
            Err(Stopped::Lost(failure)) => {
                work.losses += 1;
                if work.losses > LOSSES {
                    return Ended::Hopeless(failure);
                }
                sleep(LOSS_PAUSE * work.losses).await;
                continue;
            }
        };
        match failure.code {
            ErrorCode::Overloaded => {
                if !asked {
                    work.state = WorkState::New;
                }
                return Ended::Refused;
            }
            ErrorCode::JobExists if asked && !clashed => clashed = true,
            ErrorCode::JobExists => return Ended::Unfit,
            ErrorCode::Canceled if work.state == WorkState::Theirs => return Ended::Unfit,
            ErrorCode::NoModel
            | ErrorCode::ModelNotFound
            | ErrorCode::ModelLoad
            | ErrorCode::BackendUnavailable
                if work.general_model =>
            {
                return Ended::Hopeless(failure);
            }
            code if job.is_none() && is_hopeless(code) => return Ended::Hopeless(failure),
            _ => return Ended::Failed { failure, job },
        }
    }
}

/// Whether a request refused with this code would be refused for every line.
fn is_hopeless(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::DaemonUnavailable
            | ErrorCode::UnsupportedVersion
            | ErrorCode::BadFrame
            | ErrorCode::Timeout
            | ErrorCode::Io
            | ErrorCode::Config
            | ErrorCode::Internal
    )
}

async fn begin(
    daemon: &Arc<Daemon>,
    work: &mut Work,
    tell: &mpsc::Sender<Accepted>,
) -> Result<(String, EndFrame), Stopped> {
    let submission = Submission { job: Some(work.job.clone()), ..work.submission.clone() };
    let opened = daemon.open(Op::Run(Box::new(submission))).await;
    // After any other failure, nothing was sent.
    if opened.as_ref().err().is_none_or(|failure| failure.code == ErrorCode::ConnectionLost) {
        work.state = WorkState::Asked;
    }
    let mut replies = opened.map_err(|failure| stopped(failure, None))?;
    read(&mut replies, Some((work.slot, tell))).await
}

/// Follows a job that may have been submitted before. One that an earlier run recorded is believed
/// only if its own tags name this line: an answer on the wrong line is worse than one more job. If
/// it `clashed`, it is still on its way to the disk and has no tags to check yet.
async fn resume(
    daemon: &Arc<Daemon>,
    work: &Work,
    clashed: bool,
) -> Result<(String, EndFrame), Stopped> {
    if work.state == WorkState::Theirs && !clashed {
        let record: JobRecord = daemon
            .call(ask::Job(JobQuery::from(&work.job)))
            .await
            .map_err(|failure| stopped(failure, None))?;
        let ours = work.submission.tags.iter().take(Defaults::OWN_TAGS);
        if record.job != work.job || !record.meta.tags.iter().take(Defaults::OWN_TAGS).eq(ours) {
            return Err(Stopped::Foreign);
        }
    }
    follow(daemon, &work.job).await
}

async fn follow(daemon: &Arc<Daemon>, job: &JobId) -> Result<(String, EndFrame), Stopped> {
    let query = JobQuery::from(job);
    let follow = Op::Follow(FollowQuery { query: query.clone(), stream: Some(false) });
    let mut replies = daemon.open(follow).await.map_err(|failure| stopped(failure, None))?;
    let result = read(&mut replies, None).await;
    let Err(Stopped::Failed { failure, .. }) = &result else { return result };
    match failure.code {
        // The actual reason is in the job's record.
        ErrorCode::JobFailed | ErrorCode::WrongState => {}
        _ => return result,
    }
    let record = daemon.call(ask::Job(query)).await.map_err(|failure| stopped(failure, None))?;
    if record.state.place() != Some(JobState::Failed) {
        // It has moved on since it was followed: try again.
        return Err(Stopped::Lost(failure.clone()));
    }
    let job = Some(record.job);
    let failure = record.meta.error.unwrap_or_else(|| failure.clone());
    Err(Stopped::Failed { failure, job })
}

/// Reads an answer to its end. If the job was begun here, tells `begun` when it is accepted.
async fn read(
    replies: &mut Replies,
    begun: Option<(usize, &mpsc::Sender<Accepted>)>,
) -> Result<(String, EndFrame), Stopped> {
    let mut text = String::new();
    loop {
        match replies.next().await {
            Ok(ReplyBody::Token { token, .. }) => text.push_str(&token),
            Ok(ReplyBody::End(end)) => return Ok((text, *end)),
            Ok(ReplyBody::Event(Progress::Accepted { .. })) => {
                if let Some((slot, tell)) = begun {
                    // The receiver is gone if the batch is being stopped.
                    let _ = tell.send(Accepted(slot)).await;
                }
            }
            Ok(ReplyBody::Event(Progress::Restarted { .. })) => text.clear(),
            Ok(ReplyBody::Event(_)) => {}
            Ok(ReplyBody::Data { .. } | ReplyBody::Error(_) | ReplyBody::Unknown(_)) => {
                let failure =
                    Failure::new(ErrorCode::BadFrame, "the daemon's answer is a value, not text");
                return Err(Stopped::Failed { failure, job: None });
            }
            Err(failure) => return Err(stopped(failure, replies.job().cloned())),
        }
    }
}

fn stopped(failure: Failure, job: Option<JobId>) -> Stopped {
    match is_loss(&failure) {
        true => Stopped::Lost(failure),
        false => Stopped::Failed { failure, job },
    }
}
