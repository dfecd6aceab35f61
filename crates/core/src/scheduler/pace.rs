//! Measures how long forward passes that read prompts take, and so how wide they may be.
//!
//! Every token that a pass reads delays all current answers. So a pass is as wide as fits a time
//! limit, which depends on who is waiting. The cost of a token is measured: it differs by a factor
//! of a hundred between models and machines, and narrow passes cost more per token.

/// How long a prompt may hold up an answer that a client follows, in seconds. Readers notice a
/// quarter of a second, and a pass may take half as long again as expected.
const WATCHED: f64 = 0.17;
/// The longest pass while no client follows an answer, in seconds: a new request has to
/// wait for it.
const UNWATCHED: f64 = 0.5;
/// How long other requests' tokens may hold up each token of an interactive request, in seconds.
const BESIDE_INTERACTIVE: f64 = 0.1;
/// The tolerated waste, as a factor. A pass is not narrowed below the width where a token costs at
/// most this many times its lowest cost: narrower passes hold up everybody more often than they are
/// worth. But that width must not make a pass longer than this many times the limit, or this many
/// times a pass of [`LEAST`] tokens, whichever is longer.
const WASTE: f64 = 1.5;
/// A pass is never narrowed below this many tokens.
const LEAST: usize = 16;
/// The weight of a pass in the average of its width.
const RECENT: f64 = 0.3;
/// Widths are grouped by powers of two, up to 2^14.
const CLASSES: usize = 15;

/// The measured cost of forward passes that read prompts.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Seconds per token, by the binary logarithm of the width.
    per_token: [Option<f64>; CLASSES],
}

impl Pace {
    /// Records that a pass of `tokens` tokens took this long.
    pub(super) fn observe(&mut self, tokens: usize, seconds: f64) {
        if tokens == 0 || !seconds.is_finite() {
            return;
        }
        let seen = seconds / tokens as f64;
        let known = self.per_token[class(tokens)].get_or_insert(seen);
        *known += (seen - *known) * RECENT;
    }

    /// The maximum number of tokens in the next pass, including one for each current answer; at
    /// most `most`.
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

    /// The maximum number of tokens of other requests in a pass with an interactive request; `None`
    /// if no pass was measured yet.
    pub(super) fn beside_interactive(&self, most: usize) -> Option<usize> {
        let known = self.per_token.iter().any(Option::is_some);
        known.then(|| self.within(BESIDE_INTERACTIVE, most).max(LEAST / 2))
    }

    /// The maximum number of tokens in a pass of this many seconds.
    fn within(&self, seconds: f64, most: usize) -> usize {
        let fits = |class: usize| {
            let tokens = (seconds / self.seconds(class)) as usize;
            (tokens >= 1 << class).then(|| tokens.min((2 << class) - 1))
        };
        (0..=class(most)).rev().find_map(fits).unwrap_or(1).min(most)
    }

    /// Seconds per token in passes of this class. If it was never measured, uses the next wider
    /// class, or else the next narrower one; so new widths get tried.
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

    /// A pace measured on a machine with these costs, in seconds.
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
        // Any pass of up to 32 tokens takes a second.
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
        // 128 tokens took 3 ms each at the beginning of a text; far into it, 64 take 5 ms each.
        let mut pace = Pace::default();
        pace.observe(128, 0.384);
        pace.observe(64, 0.320);
        pace.observe(32, 0.160);
        assert_eq!(pace.width(true, 512), 34);
        // If 64 take hardly longer than the limit, and narrower passes take as long, 64 is right.
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
        // Ten times as slow, and narrower passes were not tried yet.
        assert!((48..=50).contains(&pace.width(false, 512)), "{}", pace.width(false, 512));
    }
}
