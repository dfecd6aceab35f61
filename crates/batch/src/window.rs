//! How many jobs a batch keeps queued or running.
//!
//! There are always enough that the engine has the next one, and some to choose from: if a job were
//! submitted only when another ends, the engine would run short of work. How many an engine runs at
//! once depends on its model and on memory, and may change, so the daemon is asked from time to
//! time.

use std::time::Duration;

use threadrunner_core::protocol::ProcessList;
use tokio::time::Instant;

/// The smallest window, also while nothing is loaded.
const LEAST: usize = 64;
/// The most jobs that a batch keeps queued or running: each has a connection, of which the daemon
/// takes 1,024.
pub const MOST_JOBS: usize = 512;
/// Jobs for each one that an engine runs at once, and jobs beyond that.
const FOR_EACH: usize = 2;
const BEYOND: usize = 8;
/// How long an answer about what is loaded is used.
const BELIEVED: Duration = Duration::from_secs(10);

/// How many jobs may be queued or running.
#[derive(Debug)]
pub(crate) struct Window {
    /// The user's choice.
    chosen: Option<usize>,
    /// How many requests all loaded models together run at once.
    sequences: usize,
    asked: Option<Instant>,
}

impl Window {
    /// A window of the user's choice, or else one that follows what the engines can use.
    pub(crate) fn new(chosen: Option<usize>) -> Self {
        Self { chosen, sequences: 0, asked: None }
    }

    /// The current limit.
    pub(crate) fn size(&self) -> usize {
        let useful = self.sequences.saturating_mul(FOR_EACH).saturating_add(BEYOND);
        self.chosen.unwrap_or_else(|| useful.clamp(LEAST, MOST_JOBS))
    }

    /// Whether it is time to ask what is loaded; then not again for [`BELIEVED`].
    pub(crate) fn asks(&mut self, now: Instant) -> bool {
        let due = self.asked.is_none_or(|asked| now >= asked + BELIEVED);
        let asks = self.chosen.is_none() && due;
        if asks {
            self.asked = Some(now);
        }
        asks
    }

    /// Updates the window with what is loaded.
    pub(crate) fn learn(&mut self, list: &ProcessList) {
        let loaded = list.models.iter().filter_map(|model| model.info.as_ref());
        self.sequences = loaded.map(|info| info.n_seq_max as usize).sum();
    }
}

#[cfg(test)]
mod tests {
    use threadrunner_core::protocol::LoadedModel;
    use threadrunner_core::{BackendKind, ModelInfo, ModelRef};

    use super::*;

    /// Models that run these numbers of requests at once; `None` is still being loaded.
    fn loaded(models: &[Option<u32>]) -> ProcessList {
        let model = |sequences: &Option<u32>| LoadedModel {
            model: ModelRef { backend: BackendKind::Dummy, path: None, draft: None },
            name: String::new(),
            pid: 1,
            loaded: 1.0,
            memory_bytes: 0,
            size_bytes: 0,
            pinned: false,
            running: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            unload_in_s: None,
            info: sequences.map(|n_seq_max| ModelInfo { n_seq_max, ..ModelInfo::default() }),
            engine: None,
        };
        ProcessList { models: models.iter().map(model).collect(), ..ProcessList::default() }
    }

    #[test]
    fn it_follows_what_the_loaded_models_run_at_once() {
        let mut window = Window::new(None);
        assert_eq!(window.size(), LEAST);
        for (models, size) in [
            (&[Some(8)][..], LEAST),
            (&[Some(64)], 136),
            (&[Some(64), None, Some(16)], 168),
            (&[Some(u32::MAX)], MOST_JOBS),
            (&[], LEAST),
        ] {
            window.learn(&loaded(models));
            assert_eq!(window.size(), size, "{models:?}");
        }
    }

    #[test]
    fn what_somebody_chose_binds_and_nothing_is_asked() {
        let mut window = Window::new(Some(3));
        window.learn(&loaded(&[Some(64)]));
        assert_eq!(window.size(), 3);
        assert!(!window.asks(Instant::now()));
    }

    #[test]
    fn it_is_asked_at_first_and_then_now_and_again() {
        let (mut window, start) = (Window::new(None), Instant::now());
        let asked = (0..=30).filter(|&s| window.asks(start + Duration::from_secs(s)));
        assert_eq!(asked.collect::<Vec<_>>(), [0, 10, 20, 30]);
    }
}
