//! The owner of all jobs: what is queued, what runs where, and how each job ends.
//!
//! [`Owner`] holds all state of jobs and engines in one task. It waits in one place and decides in
//! functions that never wait; the workspaces' threads, the engines' tasks and those who look at
//! disks report back by message. [`Hub`] is the handle through which the rest of the daemon talks to
//! it. Decisions that need no clock or channel are values of their own: the queue, the dependencies,
//! the fleet and its rooms, the open requests, what is known of models on disk.

mod budget;
mod changes;
mod clients;
mod deaths;
mod dependencies;
mod disk;
mod dispatch;
mod ends;
mod engines;
mod fleet;
mod hub;
mod inbox;
mod known_models;
mod live;
mod loading;
mod looked_up;
mod owner;
mod places;
mod prepared;
mod processes;
mod queue;
mod records;
mod requests;
mod rooms;
mod share;
mod sizes;
mod stored;
mod view;
mod watchdog;

pub(crate) use hub::{Awaited, Change, Ending, Hub, NewJob, ToUnload};
pub(crate) use owner::Owner;
pub(crate) use records::job_failure;
pub(crate) use view::{Done, End, JobView, Phase, ViewReader};
