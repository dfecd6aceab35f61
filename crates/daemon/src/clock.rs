//! Decides whether the clock can be trusted enough to delete something because of it.
//!
//! A clock that was set wrong is usually corrected soon, but what was deleted in the meantime is
//! gone. So after the wall clock jumps, as measured against a clock that only counts up, it is
//! trusted only once it has been steady for a while.

use std::time::{Duration, SystemTime};

/// How long the wall clock must run without another jump.
const STANDS: Duration = Duration::from_secs(600);
/// A correction of up to this much is not a jump.
const TOLERANCE: Duration = Duration::from_secs(10);
/// Nor is one of up to one part in this many of the time passed: a clock may be slewed.
const DRIFT: u32 = 500;
/// If nothing has happened for longer than this, a jump in the meantime cannot be ruled out.
const LONG_AGO: Duration = Duration::from_secs(86_400);

/// The two clocks, when they were last read.
#[derive(Debug)]
pub(crate) struct Clock {
    wall: SystemTime,
    steady: Duration,
    /// When the wall clock last jumped, on the steady clock; `None` if it never has.
    leapt: Option<Duration>,
}

impl Clock {
    /// Starts from the clocks' present readings. `last_sign` is when the last activity was
    /// recorded.
    pub(crate) fn new(wall: SystemTime, steady: Duration, last_sign: Option<SystemTime>) -> Self {
        let quiet = last_sign.and_then(|sign| wall.duration_since(sign).ok());
        let leapt = quiet.filter(|quiet| *quiet > LONG_AGO).map(|_| steady);
        Self { wall, steady, leapt }
    }

    /// Takes the clocks' present readings. Returns how long until the wall clock can be trusted;
    /// zero if it can be now.
    pub(crate) fn look(&mut self, wall: SystemTime, steady: Duration) -> Duration {
        let passed = steady.saturating_sub(self.steady);
        let expected = self.wall + passed;
        let off = match wall.duration_since(expected) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        if off > TOLERANCE + passed / DRIFT {
            tracing::warn!(seconds = off.as_secs(), "the clock jumped: pausing [retention]");
            self.leapt = Some(steady);
        }
        (self.wall, self.steady) = (wall, steady);
        let stood = self.leapt.map(|leapt| steady.saturating_sub(leapt));
        stood.map_or(Duration::ZERO, |stood| STANDS.saturating_sub(stood))
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

    fn start() -> (Clock, SystemTime, Duration) {
        let (wall, steady) = (UNIX_EPOCH + 50 * YEAR, 5 * HOUR);
        (Clock::new(wall, steady, Some(wall - HOUR)), wall, steady)
    }

    #[test]
    fn a_clock_that_goes_on_is_believed() {
        let (mut clock, wall, steady) = start();
        assert_eq!(clock.look(wall, steady), Duration::ZERO);
        // A small correction is believed too, and a larger one over a long time.
        let little = Duration::from_secs(9);
        assert_eq!(clock.look(wall + HOUR + little, steady + HOUR), Duration::ZERO);
        let later = 1000 * HOUR;
        assert_eq!(clock.look(wall + later + HOUR, steady + later), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_leapt_forward_and_back_is_believed_when_it_has_stood() {
        let (mut clock, wall, steady) = start();
        let second = Duration::from_secs(1);
        assert_eq!(clock.look(wall + YEAR + second, steady + second), STANDS);
        let after = 13 * second;
        assert_eq!(clock.look(wall + after, steady + after), STANDS);
        let half = after + STANDS / 2;
        assert_eq!(clock.look(wall + half, steady + half), STANDS / 2);
        let whole = after + STANDS;
        assert_eq!(clock.look(wall + whole, steady + whole), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_was_set_right_for_good_is_believed_after_a_while() {
        let (mut clock, wall, steady) = start();
        assert_eq!(clock.look(wall + YEAR, steady), STANDS);
        assert_eq!(clock.look(wall + YEAR + STANDS, steady + STANDS), Duration::ZERO);
    }

    #[test]
    fn a_daemon_that_finds_only_old_things_waits_before_it_deletes_them() {
        let (_, wall, steady) = start();
        let mut clock = Clock::new(wall, steady, Some(wall - YEAR));
        assert_eq!(clock.look(wall, steady), STANDS);
        // If there is nothing, or only things from the future, there is no harm.
        for sign in [None, Some(wall + YEAR)] {
            assert_eq!(Clock::new(wall, steady, sign).look(wall, steady), Duration::ZERO);
        }
    }

    #[test]
    fn the_steady_clock_goes_on() {
        let first = steady_now();
        assert!(!first.is_zero() && steady_now() >= first);
    }
}
