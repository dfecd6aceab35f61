//! How many jobs a batch keeps queued or running.
//!
//! Enough that the engine always has the next one, and some to choose from: what is asked for only
//! when another ends leaves it short of work meanwhile. What the engine runs at once follows from
//! its model and the memory, and changes when either does, so it is asked.

use std::time::Duration;

use threadrunner_core::protocol::ProcessList;
use tokio::time::Instant;

/// The fewest, also while nothing is loaded yet.
const LEAST: usize = 64;
/// The most: each has a connection, of which the daemon takes a thousand.
pub(crate) const MOST: usize = 512;
/// How many there are for each that an engine runs at once, and how many more.
const FOR_EACH: usize = 2;
const BEYOND: usize = 8;
/// How long what an engine said is believed.
const BELIEVED: Duration = Duration::from_secs(10);

/// How many jobs may be queued or running.
#[derive(Debug)]
pub(super) struct Window {
    /// What somebody chose.
    chosen: Option<usize>,
    /// How many requests the loaded models run at once, together.
    sequences: usize,
    asked: Option<Instant>,
}

impl Window {
    /// As many as somebody chose, or as the engine can use.
    pub(super) fn new(chosen: Option<usize>) -> Self {
        Self { chosen, sequences: 0, asked: None }
    }

    /// How many there may be now.
    pub(super) fn size(&self) -> usize {
        let useful = self.sequences.saturating_mul(FOR_EACH).saturating_add(BEYOND);
        self.chosen.unwrap_or_else(|| useful.clamp(LEAST, MOST))
    }

    /// Whether it is time to ask what is loaded. Says so once.
    pub(super) fn asks(&mut self, now: Instant) -> bool {
        let due = self.asked.is_none_or(|asked| now >= asked + BELIEVED);
        let asks = self.chosen.is_none() && due;
        if asks {
            self.asked = Some(now);
        }
        asks
    }

    /// Takes note of what is loaded.
    pub(super) fn learn(&mut self, list: &ProcessList) {
        let loaded = list.models.iter().filter_map(|model| model.info.as_ref());
        self.sequences = loaded.map(|info| info.n_seq_max as usize).sum();
    }
}

#[cfg(test)]
mod tests {
    use threadrunner_core::protocol::LoadedModel;
    use threadrunner_core::{BackendKind, ModelInfo, ModelRef};

    use super::*;

    /// Models that run so many requests at once; `None` is one that is being loaded.
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
            (&[Some(u32::MAX)], MOST),
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
