//! The memory that all engines together may take, from the configuration and what is free.

use std::time::{Duration, Instant};

use threadrunner_home::MemoryBudget;

use super::fleet::Fleet;
use super::rooms::Limits;
use crate::memory;

/// The most engines at once, however little memory they take.
const ENGINES: usize = 16;
/// How long a reading of the system's memory stays valid.
const BELIEVED: Duration = Duration::from_secs(1);

/// The budget, and when the free memory was last read.
#[derive(Debug)]
pub(super) struct Budget {
    configured: MemoryBudget,
    read: Option<(Instant, u64)>,
}

impl Budget {
    pub(super) fn new(configured: MemoryBudget) -> Self {
        Self { configured, read: None }
    }

    /// Measures the engines, and returns the limits for all of them together.
    pub(super) fn limits(&mut self, now: Instant, fleet: &mut Fleet) -> Limits {
        fleet.measure(now, BELIEVED, memory::resident_bytes);
        let bytes = match (self.configured, self.read) {
            (MemoryBudget::Bytes(bytes), _) => bytes,
            (MemoryBudget::Share(_), Some((at, bytes))) if now < at + BELIEVED => bytes,
            (MemoryBudget::Share(share), _) => {
                let bytes = share_of_what_is_free(share, fleet);
                self.read = Some((now, bytes));
                bytes
            }
        };
        Limits { bytes, engines: ENGINES }
    }

    /// How many bytes the engines take at this moment, and the budget.
    pub(super) fn in_use(&mut self, now: Instant, fleet: &mut Fleet) -> (u64, u64) {
        fleet.measure(now, Duration::ZERO, memory::resident_bytes);
        let budget = self.limits(now, fleet).bytes;
        (fleet.bytes(), budget)
    }
}

fn share_of_what_is_free(share: f64, fleet: &Fleet) -> u64 {
    // Memory that the engines hold is theirs to share. The pages of their model files already count
    // as free.
    let held: u64 = fleet.pids().map(memory::anonymous_bytes).sum();
    // If that is unknown, there is no limit.
    let free = memory::available_bytes().unwrap_or(u64::MAX);
    (free.saturating_add(held) as f64 * share) as u64
}
