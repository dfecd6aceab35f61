//! Panics in somebody else's code, kept to the request that they are about.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    /// Whether a panic of this thread is caught, so that its message is not to be told.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Has panics that are caught tell where they were and not what they say: the message may quote what
/// was worked on, which is somebody's prompt.
pub(crate) fn install() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !CAUGHT.get() {
            usual(info);
        } else if let Some(place) = info.location() {
            tracing::error!("caught a panic at {place}");
        }
    }));
}

/// What `work` returns; `None` where it panics. Nothing that it may leave half done may be used
/// after that.
pub(crate) fn unless_it_panics<T>(work: impl FnOnce() -> T) -> Option<T> {
    let outer = CAUGHT.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(outer);
    done.ok()
}
