//! The owner of all jobs: what is queued, what runs where, and how each ends.
//!
//! [`Hub`] is how others speak to it. [`Owner`] waits in one place and decides in functions that
//! do not wait; the workspace's thread and the engines' tasks answer it by messages.

mod changes;
mod clients;
mod dependencies;
mod dispatch;
mod engines;
mod held;
mod hub;
mod live;
mod loading;
mod owner;
mod queue;
mod records;
mod requests;
mod rooms;
mod sizes;
mod stored;
mod view;
mod watchdog;

pub(crate) use hub::{Awaited, Change, Ending, Hub, NewJob};
pub(crate) use owner::Owner;
pub(crate) use records::job_failure;
pub(crate) use view::{Done, End, JobView, Phase, ViewReader};
