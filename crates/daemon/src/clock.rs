//! Whether the clock can be believed where something would be deleted because of it.
//!
//! A clock that was set wrong is most often set right soon; what was deleted meanwhile is gone. So a
//! clock that leapt, against one that only counts, is believed when it has stood for a while.

use std::time::{Duration, SystemTime};

/// How long a clock that leapt has to go on without leaping again.
const STANDS: Duration = Duration::from_secs(600);
/// A clock that is corrected a little does not leap,
const TOLERANCE: Duration = Duration::from_secs(10);
/// nor one that is made to go a little faster or slower, by one part in so many.
const DRIFT: u32 = 500;
/// Where nothing has happened for longer than this, nobody can tell whether the clock leapt.
const LONG_AGO: Duration = Duration::from_secs(86_400);

/// Two clocks, when they were looked at last.
#[derive(Debug)]
pub(crate) struct Clock {
    wall: SystemTime,
    steady: Duration,
    /// Since when the wall clock stands; `None` where it has never leapt.
    leapt: Option<Duration>,
}

impl Clock {
    /// The clocks as they are. `last_sign` is when something was last seen to happen here.
    pub(crate) fn new(wall: SystemTime, steady: Duration, last_sign: Option<SystemTime>) -> Self {
        let quiet = last_sign.and_then(|sign| wall.duration_since(sign).ok());
        let leapt = quiet.filter(|quiet| *quiet > LONG_AGO).map(|_| steady);
        Self { wall, steady, leapt }
    }

    /// Looks at the clocks again. How long it is until the wall clock can be believed; zero where it
    /// can be now.
    pub(crate) fn look(&mut self, wall: SystemTime, steady: Duration) -> Duration {
        let passed = steady.saturating_sub(self.steady);
        let expected = self.wall + passed;
        let off = match wall.duration_since(expected) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        if off > TOLERANCE + passed / DRIFT {
            tracing::warn!(seconds = off.as_secs(), "the clock leapt: [retention] waits a while");
            self.leapt = Some(steady);
        }
        (self.wall, self.steady) = (wall, steady);
        let stood = self.leapt.map(|leapt| steady.saturating_sub(leapt));
        stood.map_or(Duration::ZERO, |stood| STANDS.saturating_sub(stood))
    }
}

/// Time since the machine was started: nobody can set it, and it goes on while the machine sleeps.
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
        // Also after it was corrected a little, over a long time by more.
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
        // With nothing there, and with what is from a time to come, there is no harm.
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
