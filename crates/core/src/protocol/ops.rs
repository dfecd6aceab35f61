//! The operations, one line each, with the type of the answer and the treatment of the request.
//!
//! The `ops!` table defines [`Op`], which is any operation as a request, and a type in [`ask`] for
//! each operation that is answered by a single value, of type [`Ask::Answer`]. [`Treatment`] tells
//! clients and the daemon how to handle a request.
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

/// An operation that is answered by a single value.
pub trait Ask: Into<Op> {
    /// The type of `data` in the answer.
    type Answer: Serialize + DeserializeOwned;
}

/// When the daemon sends the first frame of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstReply {
    /// At once: the answer is in memory.
    AtOnce,
    /// After accessing the disk.
    Soon,
    /// When something happens that may take as long as a job.
    Whenever,
}

/// How clients and the daemon treat a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Treatment {
    /// When its answer begins.
    pub first_reply: FirstReply,
    /// Whether it only reads from disk. A connection has only a few of these answered at once.
    pub reads: bool,
    /// Whether it controls the daemon. The daemon accepts these even when it refuses others as
    /// overloaded.
    pub control: bool,
    /// Whether its work may outlive the client, so that a client whose connection broke must not
    /// simply send it again.
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
        /// An operation. The key `"op"` names the variant.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "op", rename_all = "snake_case")]
        pub enum Op {
            $($(#[$doc])* $name $(($query))?,)*
        }

        impl Op {
            /// How to treat it.
            pub fn treatment(&self) -> Treatment {
                match self {
                    $(ops!(@pattern $name $($query)?) => $treatment,)*
                }
            }
        }

        /// The operations that are answered by a single value, each a type that knows its answer.
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
    /// Runs a job and streams its answer. If the client goes away, the job is canceled, unless it
    /// is detached.
    Run(Box<Submission>), Treatment::OUTLIVES;
    /// Queues a job.
    Submit(Box<Submission>) => Submitted, Treatment::OUTLIVES;
    /// Streams the answer of a job from its beginning, whatever the job's state. If the client goes
    /// away, the job is not affected.
    Follow(FollowQuery), Treatment::USUAL;
    /// Reports every change of a job's state until the client closes the connection
    /// ([`Progress::Watching`](super::Progress::Watching),
    /// [`Progress::Changed`](super::Progress::Changed)).
    Watch(WatchQuery), Treatment::USUAL;
    /// Waits for a job to end.
    Wait(JobQuery) => JobRecord, Treatment::USUAL.first(FirstReply::Whenever);
    /// Returns a job's record at once.
    Job(JobQuery) => JobRecord, Treatment::READS;
    /// Returns a finished job's answer.
    Result(JobQuery) => JobResult, Treatment::READS;
    /// Lists jobs' records, newest first; with [`JobsQuery::ids`], only their ids ([`Ids`]).
    Jobs(JobsQuery) => JobList, Treatment::READS;
    /// Cancels a queued or running job.
    Cancel(JobQuery) => JobRecord, Treatment::CONTROL;
    /// Queues a failed or canceled job again, as if it had never begun.
    Retry(JobQuery) => JobRecord, Treatment::USUAL;
    /// Removes an ended job and its files.
    Rm(JobQuery) => Removed, Treatment::USUAL;
    /// Removes jobs that ended long ago.
    Prune(PruneQuery) => Removed, Treatment::USUAL.first(FirstReply::Whenever);
    /// Lists the sessions, most recent first.
    Sessions(SessionsQuery) => SessionList, Treatment::READS;
    /// Returns a session's record and turns.
    Session(SessionQuery) => Conversation, Treatment::READS;
    /// Undoes the last turn of a session.
    UndoSession(SessionQuery) => UndoneTurn, Treatment::OUTLIVES;
    /// Removes a session and its cached state.
    RmSession(RmSessionQuery) => RemovedSession, Treatment::USUAL;
    /// Lists loaded models and running jobs.
    Ps => ProcessList, Treatment::CONTROL.first(FirstReply::AtOnce);
    /// Returns the daemon's status.
    Status => DaemonStatus, Treatment::CONTROL.first(FirstReply::AtOnce);
    /// Loads a model and reports the progress.
    Load(LoadQuery) => LoadedModel, Treatment::USUAL;
    /// Unloads a model, or all that are idle and not pinned.
    Unload(ModelQuery) => Unloaded, Treatment::CONTROL;
    /// Stops the daemon; running jobs get a grace time. Works in every version of the protocol.
    Stop(StopQuery) => Stopping, Treatment::CONTROL.first(FirstReply::Whenever);
}

/// [`Op::Jobs`] for the ids alone.
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
