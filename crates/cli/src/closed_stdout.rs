//! Whether standard output was closed when the program was started.
//!
//! Before `main`, Rust opens `/dev/null` in the place of a closed descriptor, and what is written
//! there is lost without an error. So this looks before Rust does.

#![expect(unsafe_code, reason = "a function that runs before `main` has no safe wrapper")]

use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

// SAFETY: the section holds functions of this type, which are called before `main`. This one makes
// a system call and needs nothing that `main` sets up.
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    let flags = rustix::io::fcntl_getfd(rustix::stdio::stdout());
    CLOSED.store(flags == Err(rustix::io::Errno::BADF), Ordering::Relaxed);
}

/// Whether it was closed.
pub(crate) fn was_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}
