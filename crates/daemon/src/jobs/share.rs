//! The memory that a model is given: what it wants, or what pinned models leave of the budget.

use threadrunner_core::{ErrorCode, Failure, Memory, ModelRef};

use super::rooms::{Limits, Room, RoomState};
use super::sizes::Sized;

/// The memory that a model is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) bytes: u64,
    /// The memory it has to make do with, if that is less than it wants.
    pub(super) limit: Option<u64>,
}

impl Share {
    /// What a model is given of the budget: what it wants or, if that is less, all that pinned
    /// models leave.
    ///
    /// # Errors
    /// If the model does not fit even with the least it can do with.
    pub(super) fn of(
        model: &ModelRef,
        sized: &Sized,
        rooms: &[Room],
        limits: Limits,
    ) -> Result<Self, Failure> {
        let pinned = rooms.iter().filter(|room| room.state == RoomState::Pinned);
        let pinned: u64 = pinned.map(|room| room.bytes).sum();
        let most = limits.bytes.saturating_sub(pinned);
        let wanted = sized.measured.unwrap_or_else(|| sized.wanted.total());
        if wanted <= most {
            return Ok(Self { bytes: wanted, limit: None });
        }
        if sized.least.total() <= most {
            return Ok(Self { bytes: most, limit: Some(most) });
        }
        Err(too_large(model, &sized.least, limits.bytes, pinned))
    }
}

fn too_large(model: &ModelRef, least: &Memory, budget: u64, pinned: u64) -> Failure {
    let name = model.name();
    let pinned = match pinned {
        0 => String::new(),
        pinned => format!(", {} of which pinned models take", megabytes(pinned)),
    };
    let mut parts =
        vec![("weights", least.weights), ("cache", least.cache), ("buffers", least.buffers)];
    if least.parked > 0 {
        parts.push(("kept prompts", least.parked));
    }
    // Adds up the parts as they are shown, so that a reader gets the same sum.
    let sum = parts.iter().map(|(_, bytes)| tenths(*bytes)).sum::<u64>() * TENTH;
    let parts: Vec<_> =
        parts.iter().map(|(what, bytes)| format!("{what} {}", megabytes(*bytes))).collect();
    Failure::new(
        ErrorCode::ModelTooLarge,
        format!(
            "{name} does not fit: {} = {}, and the memory budget is {}{pinned}",
            parts.join(" + "),
            megabytes(sum),
            megabytes(budget),
        ),
    )
    .hint(format!(
        "in config.toml, raise memory_budget or set a smaller context under [models.{name:?}]; or \
         use a smaller model"
    ))
}

/// Formats bytes as megabytes, the unit in which sums are easy to check.
fn megabytes(bytes: u64) -> String {
    let tenths = tenths(bytes);
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

/// A tenth of a megabyte, in bytes.
const TENTH: u64 = 100_000;

/// Tenths of a megabyte, rounded to the nearest.
fn tenths(bytes: u64) -> u64 {
    bytes.saturating_add(TENTH / 2) / TENTH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_as_a_sum() {
        let model = ModelRef {
            backend: threadrunner_core::BackendKind::Llama,
            path: Some("/m/big.gguf".into()),
            draft: None,
        };
        let least = Memory { weights: 4_000_000, cache: 2_500_000, buffers: 500_000, parked: 0 };
        let failure = too_large(&model, &least, 5_000_000, 1_000_000);
        assert_eq!(failure.code.exit_code(), threadrunner_core::ExitCode::Model);
        assert_eq!(
            failure.message,
            "big does not fit: weights 4.0 MB + cache 2.5 MB + buffers 0.5 MB = 7.0 MB, and the \
             memory budget is 5.0 MB, 1.0 MB of which pinned models take"
        );
        assert!(failure.hint.unwrap().contains("[models.\"big\"]"));
        // The parts shown add up, despite rounding.
        let least = Memory {
            weights: 98_449_000,
            cache: 47_249_000,
            buffers: 44_449_000,
            parked: 23_449_000,
        };
        assert!(too_large(&model, &least, 5_000_000, 0).message.contains(
            "weights 98.4 MB + cache 47.2 MB + buffers 44.4 MB + kept prompts 23.4 MB = 213.4 MB"
        ));
    }
}
