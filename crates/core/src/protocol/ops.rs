//! What can be asked: one line each, with the answer it gets and how it is treated.
//!
//! To add an operation, add its line here, a file of its name to the daemon's `handlers/` and, if
//! people use it, one to the command line's `commands/`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{
    Conversation, DaemonStatus, FollowQuery, JobIds, JobList, JobQuery, JobRecord, JobResult,
    JobsQuery, LoadQuery, LoadedModel, ModelQuery, ProcessList, PruneQuery, Removed,
    RemovedSession, RmSessionQuery, SessionList, SessionQuery, SessionsQuery, StopQuery, Stopping,
    Submission, Submitted, UndoneTurn, Unloaded, WatchQuery,
};

/// An operation that is answered by one value.
pub trait Ask: Into<Op> {
    /// What `data` of the answer is.
    type Answer: Serialize + DeserializeOwned;
}

/// When the daemon first says something to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstReply {
    /// At once: it is in memory.
    AtOnce,
    /// Once it has looked at its disk.
    Soon,
    /// When something happens that may take as long as a job.
    Whenever,
}

/// How an operation is treated by clients and the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Treatment {
    /// When its answer begins.
    pub first_reply: FirstReply,
    /// It only reads what is on disk: a connection has a few of these answered at once.
    pub reads: bool,
    /// It looks after the daemon, which must hear it when it hears nothing else.
    pub control: bool,
    /// What it begins may go on without the client, so it is not simply asked again.
    pub outlives: bool,
}

impl Treatment {
    const USUAL: Self =
        Self { first_reply: FirstReply::Soon, reads: false, control: false, outlives: false };
    const READS: Self = Self { reads: true, ..Self::USUAL };
    const CONTROL: Self = Self { control: true, ..Self::USUAL };
    const OUTLIVES: Self = Self { outlives: true, ..Self::USUAL };

    const fn first(self, first_reply: FirstReply) -> Self {
        Self { first_reply, ..self }
    }
}

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident $(($query:ty))? $(=> $answer:ty)?, $treatment:expr;)*) => {
        /// What can be asked, by `"op"`.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "op", rename_all = "snake_case")]
        pub enum Op {
            $($(#[$doc])* $name $(($query))?,)*
        }

        impl Op {
            /// How it is treated.
            pub fn treatment(&self) -> Treatment {
                match self {
                    $(ops!(@pattern $name $($query)?) => $treatment,)*
                }
            }
        }

        /// The operations that are answered by one value, each a type that knows its answer.
        pub mod ask {
            use super::*;

            $(ops!(@ask $(#[$doc])* $name ($($query)?) $($answer)?);)*
        }
    };
    (@pattern $name:ident) => { Op::$name };
    (@pattern $name:ident $query:ty) => { Op::$name(_) };
    (@ask $(#[$doc:meta])* $name:ident ($($query:ty)?)) => {};
    (@ask $(#[$doc:meta])* $name:ident () $answer:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name;

        impl From<$name> for Op {
            fn from(_: $name) -> Self {
                Self::$name
            }
        }

        impl Ask for $name {
            type Answer = $answer;
        }
    };
    (@ask $(#[$doc:meta])* $name:ident ($query:ty) $answer:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name(pub $query);

        impl From<$name> for Op {
            fn from($name(query): $name) -> Self {
                Self::$name(query)
            }
        }

        impl Ask for $name {
            type Answer = $answer;
        }
    };
}

ops! {
    /// The simplest form: no `op` on the wire, and an answer of token frames only.
    #[serde(skip)]
    Simple(Box<Submission>), Treatment::USUAL.first(FirstReply::Whenever);
    /// Run a job and stream its answer. The client's going away cancels it, unless it is detached.
    Run(Box<Submission>), Treatment::OUTLIVES;
    /// Queue a job.
    Submit(Box<Submission>) => Submitted, Treatment::OUTLIVES;
    /// Stream the answer of a job from its beginning, wherever it stands. Going away is harmless.
    Follow(FollowQuery), Treatment::USUAL;
    /// Tell of every job that changes, for as long as the client listens
    /// ([`Progress::Watching`](super::Progress::Watching),
    /// [`Progress::Changed`](super::Progress::Changed)).
    Watch(WatchQuery), Treatment::USUAL;
    /// Wait for the end of a job.
    Wait(JobQuery) => JobRecord, Treatment::USUAL.first(FirstReply::Whenever);
    /// A job's record, at once.
    Job(JobQuery) => JobRecord, Treatment::READS;
    /// A finished job's answer.
    Result(JobQuery) => JobResult, Treatment::READS;
    /// Many jobs' records, newest first. With [`JobsQuery::ids`], only their ids ([`Ids`]).
    Jobs(JobsQuery) => JobList, Treatment::READS;
    /// Cancel a job, queued or running.
    Cancel(JobQuery) => JobRecord, Treatment::CONTROL;
    /// Queue a failed or canceled job again, as if it had never begun.
    Retry(JobQuery) => JobRecord, Treatment::USUAL;
    /// Remove a job that has ended, with all its files.
    Rm(JobQuery) => Removed, Treatment::USUAL;
    /// Remove jobs that ended long ago.
    Prune(PruneQuery) => Removed, Treatment::USUAL.first(FirstReply::Whenever);
    /// The conversations there are, the one last spoken in first.
    Sessions(SessionsQuery) => SessionList, Treatment::READS;
    /// What was said in a conversation.
    Session(SessionQuery) => Conversation, Treatment::READS;
    /// Take back the last turn of a conversation.
    UndoSession(SessionQuery) => UndoneTurn, Treatment::OUTLIVES;
    /// Forget a conversation, and what is cached of it.
    RmSession(RmSessionQuery) => RemovedSession, Treatment::USUAL;
    /// Loaded models and running requests.
    Ps => ProcessList, Treatment::CONTROL.first(FirstReply::AtOnce);
    /// The daemon's own state.
    Status => DaemonStatus, Treatment::CONTROL.first(FirstReply::AtOnce);
    /// Load a model, with progress events.
    Load(LoadQuery) => LoadedModel, Treatment::USUAL;
    /// Unload a model, or all.
    Unload(ModelQuery) => Unloaded, Treatment::CONTROL;
    /// End the daemon: running jobs get a grace time. Understood in every version of the protocol.
    Stop(StopQuery) => Stopping, Treatment::CONTROL.first(FirstReply::Whenever);
}

/// [`Op::Jobs`], of which only the ids are wanted.
#[derive(Debug, Clone)]
pub struct Ids(pub JobsQuery);

impl From<Ids> for Op {
    fn from(Ids(query): Ids) -> Self {
        Self::Jobs(JobsQuery { ids: true, ..query })
    }
}

impl Ask for Ids {
    type Answer = JobIds;
}
