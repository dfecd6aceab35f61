//! Decides whether the clock can be trusted enough to delete something because of it.
//!
//! A clock that was set wrong is usually corrected soon, but what was deleted in the meantime is
//! gone. So at the start, and after the wall clock jumps, as measured against a clock that only
//! counts up, it is trusted only once it has been steady for a while.

use std::time::{Duration, SystemTime};

/// How long the wall clock must run without another jump.
const STANDS: Duration = Duration::from_secs(600);
/// A correction of up to this much is not a jump.
const TOLERANCE: Duration = Duration::from_secs(10);
/// Nor is one of up to one part in this many of the time passed: a clock may be slewed.
const DRIFT: u32 = 500;

/// The two clocks, when they were last read.
#[derive(Debug)]
pub(crate) struct Clock {
    wall: SystemTime,
    steady: Duration,
    /// Since when the wall clock has been steady, as far as is known, on the steady clock.
    stands: Duration,
    /// Whether it jumped then; otherwise this is the start.
    leapt: bool,
}

/// How long until something may be deleted because of the wall clock; zero if it may be now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// Because of its age.
    pub(crate) age: Duration,
    /// For another reason: only just after a jump is the order of what just ended in doubt.
    pub(crate) other: Duration,
}

impl Clock {
    /// Starts from the clocks' present readings.
    pub(crate) fn new(wall: SystemTime, steady: Duration) -> Self {
        Self { wall, steady, stands: steady, leapt: false }
    }

    /// Takes the clocks' present readings. Returns how long until the wall clock can be trusted.
    pub(crate) fn look(&mut self, wall: SystemTime, steady: Duration) -> Doubt {
        let passed = steady.saturating_sub(self.steady);
        let expected = self.wall + passed;
        let off = match wall.duration_since(expected) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        if off > TOLERANCE + passed / DRIFT {
            tracing::warn!(seconds = off.as_secs(), "the clock jumped: pausing [retention]");
            (self.stands, self.leapt) = (steady, true);
        }
        (self.wall, self.steady) = (wall, steady);
        let age = STANDS.saturating_sub(steady.saturating_sub(self.stands));
        Doubt { age, other: if self.leapt { age } else { Duration::ZERO } }
    }
}

/// Time since the machine booted. Nobody can set it, and on Linux it counts while the machine
/// sleeps.
pub(crate) fn steady_now() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    #[cfg(target_os = "linux")]
    let now = clock_gettime(ClockId::Boottime);
    #[cfg(not(target_os = "linux"))]
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const HOUR: Duration = Duration::from_secs(3600);
    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    const ZERO: Duration = Duration::ZERO;

    /// A clock that has stood long enough since the start.
    fn stood() -> (Clock, SystemTime, Duration) {
        let (wall, steady) = (UNIX_EPOCH + 50 * YEAR, 5 * HOUR);
        (Clock::new(wall - STANDS, steady - STANDS), wall, steady)
    }

    fn doubt(age: Duration, other: Duration) -> Doubt {
        Doubt { age, other }
    }

    #[test]
    fn a_clock_that_goes_on_is_believed() {
        let (mut clock, wall, steady) = stood();
        let none = doubt(ZERO, ZERO);
        assert_eq!(clock.look(wall, steady), none);
        // A small correction is believed too, and a larger one over a long time.
        let little = Duration::from_secs(9);
        assert_eq!(clock.look(wall + HOUR + little, steady + HOUR), none);
        let later = 1000 * HOUR;
        assert_eq!(clock.look(wall + later + HOUR, steady + later), none);
    }

    #[test]
    fn a_clock_that_leapt_forward_and_back_is_believed_when_it_has_stood() {
        let (mut clock, wall, steady) = stood();
        let second = Duration::from_secs(1);
        assert_eq!(clock.look(wall + YEAR + second, steady + second), doubt(STANDS, STANDS));
        let after = 13 * second;
        assert_eq!(clock.look(wall + after, steady + after), doubt(STANDS, STANDS));
        let half = after + STANDS / 2;
        assert_eq!(clock.look(wall + half, steady + half), doubt(STANDS / 2, STANDS / 2));
        let whole = after + STANDS;
        assert_eq!(clock.look(wall + whole, steady + whole), doubt(ZERO, ZERO));
    }

    #[test]
    fn a_clock_that_was_set_right_for_good_is_believed_after_a_while() {
        let (mut clock, wall, steady) = stood();
        assert_eq!(clock.look(wall + YEAR, steady), doubt(STANDS, STANDS));
        assert_eq!(clock.look(wall + YEAR + STANDS, steady + STANDS), doubt(ZERO, ZERO));
    }

    #[test]
    fn no_age_is_believed_at_the_start() {
        let (wall, steady) = (UNIX_EPOCH + 50 * YEAR, 5 * HOUR);
        let mut clock = Clock::new(wall, steady);
        assert_eq!(clock.look(wall, steady), doubt(STANDS, ZERO));
        // Set right a while after the start.
        let later = STANDS / 2;
        let right = wall + later - 22 * HOUR;
        assert_eq!(clock.look(right, steady + later), doubt(STANDS, STANDS));
        assert_eq!(clock.look(right + STANDS, steady + later + STANDS), doubt(ZERO, ZERO));
    }

    #[test]
    fn the_steady_clock_goes_on() {
        let first = steady_now();
        assert!(!first.is_zero() && steady_now() >= first);
    }
}
