//! The life of one line's job, over whatever happens to the daemon meanwhile.

use std::sync::Arc;
use std::time::Duration;

use threadrunner_client::{Daemon, Replies};
use threadrunner_core::protocol::{
    EndFrame, FollowQuery, JobRecord, Op, Progress, ReplyBody, Submission, ask,
};
use threadrunner_core::{ErrorCode, Failure, JobId, JobState};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::defaults::Defaults;
use super::line::Label;
use crate::commands::ids::query_of;
use crate::commands::wait::is_loss;

/// How often a line may lose its daemon before the batch gives up.
pub(super) const LOSSES: u32 = 20;
/// How much longer to wait after each loss, so that a daemon that keeps dying is not kept busy.
const LOSS_PAUSE: Duration = Duration::from_millis(50);

/// A line under way.
#[derive(Debug)]
pub(super) struct Work {
    /// Its place among those under way.
    pub(super) slot: usize,
    pub(super) label: Label,
    pub(super) submission: Submission,
    /// Whether the model is the batch's, and not the line's.
    pub(super) general_model: bool,
    pub(super) job: JobId,
    pub(super) state: WorkState,
    /// How often its daemon went away.
    pub(super) losses: u32,
}

/// What is known of a line's job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkState {
    /// It was not asked for.
    New,
    /// It was asked for. Whether that was heard is known once it is found.
    Asked,
    /// The same, by a run that was stopped.
    Theirs,
}

/// The job in that slot is the daemon's.
#[derive(Debug)]
pub(super) struct Accepted(pub(super) usize);

/// How it ended.
#[derive(Debug)]
pub(super) enum Ended {
    Answered {
        text: String,
        end: Box<EndFrame>,
    },
    Failed {
        failure: Failure,
        job: Option<JobId>,
    },
    /// The line needs another job: that one was canceled when the last run was stopped, or the id
    /// is of something else.
    Unfit,
    /// The queue is full.
    Refused,
    /// No line could be answered any more.
    Hopeless(Failure),
}

/// What one attempt came to when it was not an answer.
enum Stopped {
    /// The job failed, or the daemon refused the request.
    Failed { failure: Failure, job: Option<JobId> },
    /// The connection or the daemon is gone.
    Lost(Failure),
    /// The job that the last run noted is not this line's.
    Foreign,
}

/// Sees a line's job to its end.
pub(super) async fn carry_out(
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
                // It was not heard, or it was removed. If it is heard only now, of one id there is
                // one job, and this is refused.
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

/// Whether a request that is refused so would be refused for every line.
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
    // Else nothing was sent.
    if opened.as_ref().err().is_none_or(|failure| failure.code == ErrorCode::ConnectionLost) {
        work.state = WorkState::Asked;
    }
    let mut replies = opened.map_err(|failure| stopped(failure, None))?;
    read(&mut replies, Some((work.slot, tell))).await
}

/// Goes on with a job that was asked for before. What an earlier run noted is believed only where
/// the job itself says that it is this line's: an answer on a wrong line is worse than one more job. One
/// that `clashed` was heard just now, and is on its way to the disk: it says nothing yet.
async fn resume(
    daemon: &Arc<Daemon>,
    work: &Work,
    clashed: bool,
) -> Result<(String, EndFrame), Stopped> {
    if work.state == WorkState::Theirs && !clashed {
        let record: JobRecord = daemon
            .call(ask::Job(query_of(&work.job)))
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
    let query = query_of(job);
    let follow = Op::Follow(FollowQuery { query: query.clone(), stream: Some(false) });
    let mut replies = daemon.open(follow).await.map_err(|failure| stopped(failure, None))?;
    let result = read(&mut replies, None).await;
    let Err(Stopped::Failed { failure, .. }) = &result else { return result };
    match failure.code {
        // The job's own reason is in its record.
        ErrorCode::JobFailed | ErrorCode::WrongState => {}
        _ => return result,
    }
    let record = daemon.call(ask::Job(query)).await.map_err(|failure| stopped(failure, None))?;
    if record.state.place() != Some(JobState::Failed) {
        // It moved between two looks: the next one finds it.
        return Err(Stopped::Lost(failure.clone()));
    }
    let job = Some(record.job);
    let failure = record.meta.error.unwrap_or_else(|| failure.clone());
    Err(Stopped::Failed { failure, job })
}

/// Reads an answer to its end; of a job that was begun here it is told when it is accepted.
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
                    // Nobody listens any more when the batch is being stopped.
                    let _ = tell.send(Accepted(slot)).await;
                }
            }
            Ok(ReplyBody::Event(Progress::Restarted { .. })) => text.clear(),
            Ok(ReplyBody::Event(_)) => {}
            Ok(ReplyBody::Data { .. } | ReplyBody::Error(_) | ReplyBody::Unknown {}) => {
                let failure =
                    Failure::new(ErrorCode::BadFrame, "the daemon's answer is a value, not a text");
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
