//! The workspace: jobs as directories, where a directory's place is the job's state.
//!
//! ```text
//! input/writing/ID -> input/ready/ID -> processing/ID -> output/ID or failed/ID
//! ```
//!
//! Every move is one rename, allowed by one table ([`JobState::may_become`]) and made in one
//! function (`staged::move_job`). A [`Workspace`] is the owner, which holds the lock: it submits,
//! claims and ends jobs, in groups that share one sync. A [`Reader`] reads next to the owner,
//! without the lock. A [`Watcher`] reports jobs that other programs put into `input/ready`.
//!
//! Guarantees, however the process or the power ends:
//!
//! - A job is in exactly one of these directories at every instant.
//! - What a client was told still holds.
//! - A job that can be seen in `ready`, `output` or `failed` is complete.
//! - A finished job is never run again.
//!
//! `docs/adr/0003-grouped-sync.md` gives the reasons and the measurements. Nothing here reads a
//! clock or sleeps: times are arguments. The crate knows `core` and the file system, not processes,
//! sockets or the environment.
//!
//! All changes go through [`fs::FileSystem`], so that the tests in `tests/it` can fail any of them
//! (`faults.rs`, `power.rs`) for each thing that is done (`scenario.rs`). `model.rs` has random
//! operations, `foreign.rs` other programs' jobs.
//!
//! [`JobState::may_become`]: threadrunner_core::JobState::may_become

mod claim;
mod claimed;
mod error;
mod files;
mod finish;
pub mod fs;
mod hooks;
mod job_files;
mod layout;
mod listing;
mod manage;
mod newest;
mod newest_jobs;
mod order;
mod reader;
mod recent;
mod recover;
mod redo;
mod retention;
mod session_list;
mod sessions;
mod staged;
mod submission;
mod submit;
mod tree;
mod watch;
mod workspace;

pub use claim::QueuedJob;
pub use claimed::{ClaimedJob, StillClaimed};
pub use error::{Result, WorkspaceError};
pub use files::MAX_FILE_BYTES;
pub use finish::Attempt;
pub use hooks::Hook;
pub use layout::{
    EMBEDDING_FILE, ERROR_FILE, HOOK_FILE, HOOK_LOG_FILE, JOB_FILE, META_FILE, OUTPUT_FILE,
    PARTIAL_FILE, PROMPT_FILE, RESULT_FILE, TYPE_FILE,
};
pub use order::by_time;
pub use reader::{PartialAnswer, Reader};
pub use recover::Recovered;
pub use retention::{NotKept, Retention};
pub use session_list::list_sessions;
pub use sessions::{Chain, UnwrittenSession};
pub use staged::{Gone, Synced};
pub use submission::NewJob;
pub use watch::{WatchEvent, Watcher, system_watcher};
pub use workspace::{Durability, Options, Workspace};
