//! Other load on the processors while something is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Waits for the threads of the side just measured to sleep. llama.cpp's threads spin for some
/// milliseconds after their last work, on the processors that the other side is about to use.
pub fn settle() {
    thread::sleep(Duration::from_millis(50));
}

/// A thread that keeps one processor busy, as another program would; stops on drop.
#[derive(Debug)]
pub struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Neighbour {
    /// Starts the thread.
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = thread::spawn(move || {
            let mut count = 0_u64;
            while !told.load(Ordering::Relaxed) {
                count = std::hint::black_box(count.wrapping_add(1));
            }
            count
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The count is of no interest.
            let _ = thread.join();
        }
    }
}
