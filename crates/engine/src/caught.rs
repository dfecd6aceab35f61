//! Catches panics in third-party code, so that they fail only the request that caused them.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    /// Whether this thread catches panics right now, so their messages are not logged.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Installs a panic hook that logs where a caught panic happened but not its message, which may
/// quote a prompt.
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

/// Runs `work` and returns its result, or `None` if it panics. After a panic, the caller must not
/// use anything that `work` may have left half done.
pub(crate) fn unless_it_panics<T>(work: impl FnOnce() -> T) -> Option<T> {
    let outer = CAUGHT.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(outer);
    done.ok()
}
