//! Looks at disks, each on a thread, a bounded number at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use threadrunner_core::{ErrorCode, Failure};
use tokio::sync::Semaphore;

use crate::blocking::blocking;

/// The most looks at once.
pub(crate) const AT_ONCE: usize = 64;
/// The most looks at one model at once. If its disk hangs, no more threads hang with it.
const OF_ONE: usize = 4;

/// Looks that are under way.
#[derive(Debug)]
pub(super) struct Looks {
    all: Arc<Semaphore>,
    by_name: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Default for Looks {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(AT_ONCE)), by_name: Mutex::default() }
    }
}

impl Looks {
    /// Looks at the model of that name on a thread, once there is one for it. A caller that no
    /// longer waits leaves the look to itself.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        name: &str,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let closed = |_| Failure::new(ErrorCode::ShuttingDown, "the daemon is ending");
        let own = Arc::clone(&self.of(name)).acquire_owned().await.map_err(closed)?;
        let any = Arc::clone(&self.all).acquire_owned().await.map_err(closed)?;
        blocking(move || {
            let _permits = (own, any);
            Ok(look())
        })
        .await
    }

    fn of(&self, name: &str) -> Arc<Semaphore> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = by_name.get(name) {
            return Arc::clone(own);
        }
        // Forget those that nothing looks at.
        by_name.retain(|_, own| Arc::strong_count(own) > 1);
        let own = Arc::new(Semaphore::new(OF_ONE));
        by_name.insert(name.to_owned(), Arc::clone(&own));
        own
    }
}
