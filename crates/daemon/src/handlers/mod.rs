//! The request handlers, one file per operation.

mod cancel;
mod follow;
mod job;
mod jobs;
mod load;
mod prune;
mod ps;
mod references;
mod result;
mod retry;
mod rm;
mod rm_session;
mod run;
mod session;
mod sessions;
mod status;
mod stop;
mod stream;
mod submit;
mod turn;
mod undo_session;
mod unload;
mod wait;
mod watch;

use std::sync::Arc;

use threadrunner_core::Failure;
use threadrunner_core::protocol::Op;

use crate::answer::{Answer, Gone};
use crate::context::Context;

/// Why a handler stopped early.
enum Stop {
    /// The client is gone.
    Gone,
    /// The request failed; the client is told why.
    Failed(Failure),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Answers one request.
///
/// # Errors
/// [`Gone`] if the client is gone.
pub(crate) async fn handle(context: Arc<Context>, op: Op, answer: Answer) -> Result<(), Gone> {
    let context = &*context;
    // Requests that change something take no turn: they are carried out even if the client reads
    // nothing.
    let _turn = match op.treatment().reads {
        true => Some(answer.turn().await?),
        false => None,
    };
    let handled = match op {
        Op::Simple(submission) => run::simple(context, *submission, &answer).await,
        Op::Run(submission) => run::run(context, *submission, &answer).await,
        Op::Submit(submission) => submit::submit(context, *submission, &answer).await,
        Op::Follow(query) => follow::follow(context, query, &answer).await,
        Op::Wait(query) => wait::wait(context, query, &answer).await,
        Op::Watch(query) => watch::watch(context, query, &answer).await,
        Op::Job(query) => job::job(context, query, &answer).await,
        Op::Result(query) => result::result(context, query, &answer).await,
        Op::Jobs(query) => jobs::jobs(context, query, &answer).await,
        Op::Cancel(query) => cancel::cancel(context, query, &answer).await,
        Op::Retry(query) => retry::retry(context, query, &answer).await,
        Op::Rm(query) => rm::rm(context, query, &answer).await,
        Op::Prune(query) => prune::prune(context, query, &answer).await,
        Op::Sessions(query) => sessions::sessions(context, query, &answer).await,
        Op::Session(query) => session::session(context, query, &answer).await,
        Op::UndoSession(query) => undo_session::undo_session(context, query, &answer).await,
        Op::RmSession(query) => rm_session::rm_session(context, query, &answer).await,
        Op::Ps => ps::ps(context, &answer).await,
        Op::Status => status::status(context, &answer).await,
        Op::Load(query) => load::load(context, query, &answer).await,
        Op::Unload(query) => unload::unload(context, query, &answer).await,
        Op::Stop(query) => stop::stop(context, query.now, &answer).await,
    };
    match handled {
        Ok(()) => Ok(()),
        Err(Stop::Gone) => Err(Gone),
        Err(Stop::Failed(failure)) => answer.fail(failure, None).await,
    }
}
