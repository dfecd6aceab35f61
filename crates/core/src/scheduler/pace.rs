//! How long forward passes that read prompts take, and so how wide to make them.
//!
//! Every token that a pass reads delays all answers under way by what it takes. So a pass is as wide
//! as fits a time, and the time depends on who waits. What a token takes is measured: it differs by
//! a factor of a hundred between models and machines, and narrow passes cost more for each token.

/// What an answer that somebody watches is to be held up for by a prompt. A reader notices a quarter
/// of a second; a pass may take half as long again as expected.
const WATCHED: f64 = 0.17;
/// The longest pass where nobody watches an answer: whoever comes waits for it.
const UNWATCHED: f64 = 0.5;
/// The longest that the tokens of others hold up each token of an interactive request.
const BESIDE_INTERACTIVE: f64 = 0.1;
/// A pass is not cut below the width from which a token takes at most so many times what it takes
/// in the best one: it would hold up everybody more often than it is worth. Nor does it take longer
/// than so many times its limit for that, or than a pass of the fewest tokens takes anyway.
const WASTE: f64 = 1.5;
/// Nor below this.
const LEAST: usize = 16;
/// The weight of a pass in what is known of its width.
const RECENT: f64 = 0.3;
/// Widths are told apart by powers of two, up to 2^14.
const CLASSES: usize = 15;

/// What forward passes that read prompts were seen to take.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Seconds for a token, by the binary logarithm of the width.
    per_token: [Option<f64>; CLASSES],
}

impl Pace {
    /// A pass of so many tokens took so long.
    pub(super) fn observe(&mut self, tokens: usize, seconds: f64) {
        if tokens == 0 || !seconds.is_finite() {
            return;
        }
        let seen = seconds / tokens as f64;
        let known = self.per_token[class(tokens)].get_or_insert(seen);
        *known += (seen - *known) * RECENT;
    }

    /// The most tokens of the next pass, `most` at most: prompts, and one of each answer under way.
    pub(super) fn width(&self, watched: bool, most: usize) -> usize {
        let limit = if watched { WATCHED } else { UNWATCHED };
        let Some(best) = self.per_token.iter().flatten().copied().reduce(f64::min) else {
            return most;
        };
        let takes = |class: usize| self.seconds(class) * (1 << class) as f64;
        let longest = WASTE * limit.max(takes(class(LEAST)));
        let least = (0..=class(most)).find(|class| self.seconds(*class) <= best * WASTE);
        let least = (0..=least.unwrap_or(0)).rev().find(|class| takes(*class) <= longest);
        let least = least.map_or(LEAST, |class| LEAST.max(1 << class));
        self.within(limit, most).max(least).min(most)
    }

    /// The most tokens of others in a pass that an interactive request takes part in; `None` where no
    /// pass was seen.
    pub(super) fn beside_interactive(&self, most: usize) -> Option<usize> {
        let known = self.per_token.iter().any(Option::is_some);
        known.then(|| self.within(BESIDE_INTERACTIVE, most).max(LEAST / 2))
    }

    /// The most tokens of a pass that takes so many seconds.
    fn within(&self, seconds: f64, most: usize) -> usize {
        let fits = |class: usize| {
            let tokens = (seconds / self.seconds(class)) as usize;
            (tokens >= 1 << class).then(|| tokens.min((2 << class) - 1))
        };
        (0..=class(most)).rev().find_map(fits).unwrap_or(1).min(most)
    }

    /// Seconds for a token in passes of this class: where none was seen as in wider ones, else as in
    /// narrower ones. So a width that was never tried is.
    fn seconds(&self, class: usize) -> f64 {
        let (narrower, wider) = self.per_token.split_at(class);
        let known = wider.iter().flatten().next();
        known.or_else(|| narrower.iter().rev().flatten().next()).copied().unwrap_or(0.0)
    }
}

fn class(tokens: usize) -> usize {
    (tokens.max(1).ilog2() as usize).min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which a token takes so long, and each pass a little more.
    fn seen(per_token: f64, per_pass: f64, widths: &[usize]) -> Pace {
        let mut pace = Pace::default();
        for width in widths {
            pace.observe(*width, per_pass + per_token * *width as f64);
        }
        pace
    }

    #[test]
    fn a_pass_is_as_wide_as_fits_the_time() {
        assert_eq!(Pace::default().width(true, 512), 512);
        let pace = seen(0.001, 0.0, &[512]);
        assert_eq!(pace.width(true, 512), 170);
        assert_eq!(pace.width(false, 512), 500);
        assert_eq!(pace.width(false, 100), 100);
    }

    #[test]
    fn what_is_fast_is_not_cut() {
        assert_eq!(seen(0.0001, 0.0, &[512]).width(true, 512), 512);
    }

    #[test]
    fn a_large_model_is_not_cut_to_where_it_would_crawl() {
        // A second for any pass up to 32 tokens.
        let mut pace = Pace::default();
        for width in [1, 2, 4, 8, 16, 32] {
            pace.observe(width, 1.0);
        }
        pace.observe(512, 16.0);
        assert_eq!(pace.width(true, 512), 32);
        assert_eq!(seen(1.0, 0.0, &[8, 128]).width(true, 512), LEAST);
    }

    #[test]
    fn what_was_fast_once_is_no_reason_for_a_long_pass() {
        // 128 tokens took 3 ms each at the beginning of a text; far into it 64 take 5 ms each.
        let mut pace = Pace::default();
        pace.observe(128, 0.384);
        pace.observe(64, 0.320);
        pace.observe(32, 0.160);
        assert_eq!(pace.width(true, 512), 34);
        // Where 64 take hardly longer than the limit, and narrower ones as long, they are right.
        pace.observe(16, 0.16);
        for _ in 0..30 {
            pace.observe(64, 0.24);
            pace.observe(32, 0.288);
        }
        assert_eq!(pace.width(true, 512), 64);
    }

    #[test]
    fn beside_a_person_there_is_little_of_others() {
        assert_eq!(Pace::default().beside_interactive(512), None);
        assert_eq!(seen(0.001, 0.0, &[512]).beside_interactive(512), Some(100));
        assert_eq!(seen(1.0, 0.0, &[512]).beside_interactive(512), Some(LEAST / 2));
    }

    #[test]
    fn what_was_measured_last_counts_most() {
        let mut pace = seen(0.001, 0.0, &[400]);
        for _ in 0..20 {
            pace.observe(400, 4.0);
        }
        // Ten times as slow; narrower ones were not tried yet.
        assert!((48..=50).contains(&pace.width(false, 512)), "{}", pace.width(false, 512));
    }
}
