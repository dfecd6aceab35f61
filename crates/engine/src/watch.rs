//! Limits the time of work that nothing can interrupt: a template, the tokenizer and a forward pass
//! are third-party code that runs on untrusted text.
//!
//! A separate thread watches the clock, because the working one cannot. It is woken for the first
//! work after a rest, and once a second while there is work, but not for every piece of it.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::EngineRequestId;

/// How long a template and the tokenizer may take for any text: a thousand times what they usually
/// take.
const TEXT_TIME: Duration = Duration::from_secs(10);
/// Bytes of text for which they get another second.
const TEXT_RATE: usize = 1 << 20;
/// How long a forward pass may take: this time or this many times the usual one, whichever is
/// longer.
const STEP_TIME: (Duration, u32) = (Duration::from_secs(60), 100);
/// How often the clock is checked.
const EVERY: Duration = Duration::from_secs(1);

/// Work with a time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// What it is.
    pub kind: Kind,
    /// The request that it is done for; `None` if it is for all.
    pub id: Option<EngineRequestId>,
    /// How long it may take.
    pub limit: Duration,
}

impl Work {
    /// Work on this many bytes of a request's text.
    pub fn on_text(kind: Kind, id: EngineRequestId, bytes: usize) -> Self {
        let limit = TEXT_TIME + Duration::from_secs((bytes / TEXT_RATE) as u64);
        Self { kind, id: Some(id), limit }
    }

    /// A forward pass that usually takes `usual`.
    pub fn step(usual: Duration) -> Self {
        let (least, times) = STEP_TIME;
        Self { kind: Kind::Step, id: None, limit: least.max(usual.saturating_mul(times)) }
    }
}

/// Kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rendering the model's chat template.
    Template,
    /// Tokenizing a text.
    Tokens,
    /// A forward pass.
    Step,
}

/// Watches the work of one thread. The default has no watching thread and limits nothing.
#[derive(Debug, Clone, Default)]
pub struct Watch(Option<Arc<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    work: Option<(Work, Instant)>,
    rests: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Starts a thread that calls `late` with the first work to exceed its limit.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(late: impl FnOnce(Work) + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watched = shared.clone();
        thread::Builder::new().name("watch".into()).spawn(move || late(first_late(&watched)))?;
        Ok(Self(Some(shared)))
    }

    /// Runs `task` as work that is watched.
    pub fn during<T>(&self, work: Work, task: impl FnOnce() -> T) -> T {
        let Some(shared) = &self.0 else { return task() };
        let until = Instant::now() + work.limit;
        {
            let mut state = shared.state();
            state.work = Some((work, until));
            if state.rests {
                state.rests = false;
                shared.wake.notify_one();
            }
        }
        let done = task();
        shared.state().work = None;
        done
    }
}

/// Waits for work that exceeds its limit.
fn first_late(shared: &Shared) -> Work {
    let mut state = shared.state();
    loop {
        let Some((work, until)) = state.work else {
            state.rests = true;
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let now = Instant::now();
        if until <= now {
            return work;
        }
        let pause = EVERY.min(until - now);
        state = match shared.wake.wait_timeout(state, pause) {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        };
        // If this thread slept far too long, the whole process was stopped, the work included. That
        // time does not count.
        let slept = now.elapsed();
        if slept > pause + EVERY
            && let Some((_, until)) = &mut state.work
        {
            *until += slept;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn work(id: EngineRequestId, limit: Duration) -> Work {
        Work { kind: Kind::Template, id: Some(id), limit }
    }

    #[test]
    fn the_first_work_that_takes_too_long_is_told_while_it_goes_on() {
        let (sender, late) = channel();
        let watch = Watch::start(move |work| sender.send(work).unwrap()).unwrap();
        let hour = Duration::from_secs(3600);
        for id in (0..100).map(EngineRequestId) {
            assert_eq!(watch.during(work(id, hour), || id), id);
        }
        assert!(late.try_recv().is_err());
        let too_long = work(EngineRequestId(100), Duration::from_millis(1));
        assert_eq!(watch.during(too_long, || late.recv()), Ok(too_long));
    }

    #[test]
    fn work_after_a_rest_is_watched_too() {
        let (sender, late) = channel();
        let watch = Watch::start(move |work| sender.send(work).unwrap()).unwrap();
        watch.during(work(EngineRequestId(1), Duration::from_secs(3600)), || ());
        while !watch.0.as_ref().unwrap().state().rests {
            thread::yield_now();
        }
        let too_long = work(EngineRequestId(2), Duration::from_millis(1));
        assert_eq!(watch.during(too_long, || late.recv()), Ok(too_long));
    }

    #[test]
    fn without_a_thread_work_is_just_done() {
        assert_eq!(Watch::default().during(work(EngineRequestId(1), Duration::ZERO), || 7), 7);
    }
}
