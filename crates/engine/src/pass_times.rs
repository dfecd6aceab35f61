//! Predicts how long the next forward pass takes.

use std::time::Duration;

/// Expects a forward pass to take as long as the last one with about as many tokens.
#[derive(Debug, Default)]
pub struct PassTimes {
    /// By the power of two of the number of tokens.
    last: [Option<Duration>; 16],
}

impl PassTimes {
    /// Records how long a forward pass took.
    pub fn took(&mut self, tokens: usize, time: Duration) {
        self.last[Self::class(tokens)] = Some(time);
    }

    /// Returns how long a forward pass is expected to take. If the time of its size is unknown, it
    /// comes from another size and is an upper bound; [`Duration::MAX`] if none is known.
    pub fn expect(&self, tokens: usize) -> Duration {
        let class = Self::class(tokens);
        let smaller = || {
            let known = (0..class).rev().find_map(|at| Some((at, self.last[at]?)));
            known.map(|(at, time)| time * (1 << (class - at)))
        };
        let larger = || self.last[class..].iter().copied().flatten().next();
        self.last[class].or_else(smaller).or_else(larger).unwrap_or(Duration::MAX)
    }

    fn class(tokens: usize) -> usize {
        (tokens.max(1).ilog2() as usize).min(15)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_pass_takes_what_the_last_one_of_its_size_took() {
        let mut passes = PassTimes::default();
        assert_eq!(passes.expect(1), Duration::MAX, "nobody knows");
        passes.took(1, 5 * MS);
        passes.took(512, 700 * MS);
        passes.took(1, 6 * MS);
        assert_eq!((passes.expect(1), passes.expect(600)), (6 * MS, 700 * MS));
    }

    #[test]
    fn of_a_size_that_is_unknown_no_less_than_will_be_is_expected() {
        let mut passes = PassTimes::default();
        passes.took(64, 80 * MS);
        assert_eq!(passes.expect(256), 320 * MS);
        assert_eq!(passes.expect(1), 80 * MS);
        assert!(passes.expect(usize::MAX) > 10_000 * MS);
    }
}
