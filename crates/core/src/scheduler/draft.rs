//! Guesses the next tokens of an answer by lookup: what followed the last few tokens where they
//! occurred before, in the prompt or in the answer, may follow again.
//!
//! A guess is free until it is computed, so each sequence's [`Drafter`] guesses all the time and
//! tracks how often it was right. Drafts are fed only if that record ([`Outlook`]) and the measured
//! [`Costs`] of wider forward passes promise a speedup: see [`allot`].

use std::collections::HashMap;

use crate::TokenId;

/// How many tokens must match for what followed them to be a guess. Two match too often in text
/// that does not repeat; with four, a copy is found again too late after a change.
const SAME: usize = 3;

/// After this many right guesses, a wrong one counts as a changed word in a copy.
const COPIES: u32 = 4;

/// The weight of the latest guess in the moving average of right ones.
pub(super) const RECENT: f64 = 0.15;

/// The assumed probabilities before a sequence has made any guesses: that the first of a run is
/// right, and that one after a right one is.
const FIRST_AT_FIRST: f64 = 0.3;
const NEXT_AT_FIRST: f64 = 0.6;

/// What a sequence expects to come next, and how often it was right.
#[derive(Debug)]
pub(super) struct Drafter {
    /// Where each run of tokens occurred last; the value is the position after it.
    places: HashMap<[TokenId; SAME], usize>,
    /// How many of the sequence's tokens `places` covers.
    known: usize,
    /// The position of the token that is expected next.
    source: Option<usize>,
    /// How many guesses in a row from there were right.
    run: u32,
    first: f64,
    next: f64,
}

impl Default for Drafter {
    fn default() -> Self {
        Self {
            places: HashMap::new(),
            known: 0,
            source: None,
            run: 0,
            first: FIRST_AT_FIRST,
            next: NEXT_AT_FIRST,
        }
    }
}

impl Drafter {
    /// Takes in a new token, the last of `tokens`.
    pub(super) fn came(&mut self, tokens: &[TokenId]) {
        if let Some(source) = self.source {
            let right = tokens.get(source) == tokens.last();
            let estimate = if self.run == 0 { &mut self.first } else { &mut self.next };
            *estimate += (f64::from(u8::from(right)) - *estimate) * RECENT;
            // A copy usually continues after a changed word.
            let goes_on = right || self.run >= COPIES;
            self.run = if right { self.run + 1 } else { 0 };
            self.source = goes_on.then_some(source + 1);
        }
        if self.source.is_none() {
            self.source = self.look_up(tokens);
            self.run = 0;
        }
    }

    /// Finds what followed the last tokens at their latest earlier occurrence. Indexes all tokens
    /// that came since the last call.
    fn look_up(&mut self, tokens: &[TokenId]) -> Option<usize> {
        let last: [TokenId; SAME] =
            tokens.get(tokens.len().checked_sub(SAME)?..)?.try_into().ok()?;
        // Only runs that end before the last token, because what follows them is known.
        for end in self.known.max(SAME)..tokens.len() {
            if let Ok(run) = <[TokenId; SAME]>::try_from(&tokens[end - SAME..end]) {
                self.places.insert(run, end);
            }
        }
        self.known = tokens.len();
        self.places.get(&last).copied()
    }

    /// How likely the next guesses are to be right; `None` if there are none.
    pub(super) fn outlook(&self) -> Option<Outlook> {
        self.source?;
        let first = if self.run == 0 { self.first } else { self.next };
        Some(Outlook { first, next: self.next })
    }

    /// The `n` tokens expected after `tokens`. If the source reaches the end of `tokens`, it starts
    /// over, because a repeating text loops.
    pub(super) fn drafts(&self, tokens: &[TokenId], n: usize) -> Vec<TokenId> {
        let Some(known) = self.source.and_then(|source| tokens.get(source..)) else {
            return Vec::new();
        };
        known.iter().copied().cycle().take(n).collect()
    }
}

/// How likely a sequence's drafts are to be accepted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outlook {
    /// The probability of the first draft.
    pub(super) first: f64,
    /// The probability of each further draft, if all before it are accepted.
    pub(super) next: f64,
}

/// The speedup that drafts must promise to be fed.
const WORTH_IT: f64 = 1.05;

/// Distributes up to `most` drafts over decoding sequences so as to maximize tokens per second.
/// `cost` is what a forward pass with these drafts costs, including computing the drafts; only
/// ratios matter.
///
/// A pass of `n` sequences and `k` drafts yields `n` tokens plus the drafts expected to be
/// accepted: the i-th draft of a sequence with outlook `p, q` is accepted with probability
/// `p * q^(i-1)`. Adds the likeliest draft at a time and keeps the count with the most tokens per
/// cost, if that beats a pass without drafts by [`WORTH_IT`].
pub(super) fn allot(
    sequences: &[Option<Outlook>],
    most: usize,
    cost: impl Fn(&[usize]) -> f64,
) -> Allotment {
    let mut drafts = vec![0; sequences.len()];
    let rate = WORTH_IT * sequences.len() as f64 / cost(&drafts);
    let mut best = Allotment { drafts: drafts.clone(), rate };
    let mut likely: Vec<f64> =
        sequences.iter().map(|outlook| outlook.map_or(0.0, |outlook| outlook.first)).collect();
    let mut expected = sequences.len() as f64;
    for _ in 0..most {
        let likeliest = (0..likely.len()).max_by(|a, b| likely[*a].total_cmp(&likely[*b]));
        let Some((place, outlook)) = likeliest.and_then(|at| Some((at, sequences[at]?))) else {
            break;
        };
        drafts[place] += 1;
        expected += likely[place];
        likely[place] *= outlook.next;
        let rate = expected / cost(&drafts);
        if rate > best.rate {
            best = Allotment { drafts: drafts.clone(), rate };
        }
    }
    best
}

/// How many drafts each sequence gets.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Allotment {
    pub(super) drafts: Vec<usize>,
    /// The tokens expected in the time of a one-token pass.
    pub(super) rate: f64,
}

/// Measured costs of forward passes that only decode, by their number of tokens.
#[derive(Debug, Default)]
pub(super) struct Costs {
    /// Seconds for a pass of one token.
    one: Option<f64>,
    /// The same, estimated from passes of any width: with several sequences, no pass has one token.
    seconds: Option<f64>,
    /// What a pass of `2 + index` tokens costs, relative to a pass of one token.
    ratios: Vec<f64>,
}

/// The widest pass, in tokens, with a ratio of its own; wider ones scale in proportion.
const WIDEST: usize = 32;

/// The assumed cost of each further token before it is measured; low, so that drafts get tried.
const FURTHER_AT_FIRST: f64 = 0.3;

/// The weight of a pass in the average of its width: for passes of one token, which are frequent,
/// and for wider ones.
const NARROW: f64 = 0.2;
const WIDE: f64 = 0.4;

/// How much of their weight the measured ratios lose with each pass of one token. So widths
/// abandoned as slow are eventually tried again.
pub(super) const FORGET: f64 = 0.0005;

impl Costs {
    /// Seconds for a pass of one token, estimated from passes of any width.
    pub(super) fn seconds(&self) -> Option<f64> {
        self.seconds
    }

    /// Scales the estimated time of all passes by `part`.
    pub(super) fn cheapen(&mut self, part: f64) {
        self.seconds = self.seconds.map(|seconds| seconds * part);
    }

    fn at_first(width: usize) -> f64 {
        1.0 + FURTHER_AT_FIRST * (width as f64 - 1.0)
    }

    /// The cost of a pass, relative to a pass of one token.
    pub(super) fn ratio(&self, width: usize) -> f64 {
        let place = width.min(WIDEST).saturating_sub(2);
        let ratio = match width {
            0 | 1 => 1.0,
            _ => self.ratios.get(place).copied().unwrap_or_else(|| Self::at_first(width)),
        };
        if width > WIDEST { ratio * width as f64 / WIDEST as f64 } else { ratio }
    }

    /// Records that a pass of `width` tokens took this long.
    pub(super) fn observe(&mut self, width: usize, seconds: f64) {
        if self.ratios.is_empty() {
            self.ratios = (2..=WIDEST).map(Self::at_first).collect();
        }
        if width > 0 {
            let seen = seconds / self.ratio(width).max(1.0);
            let seconds = self.seconds.get_or_insert(seen);
            *seconds += (seen - *seconds) * NARROW;
        }
        match width {
            0 => {}
            1 => {
                let one = self.one.get_or_insert(seconds);
                *one += (seconds - *one) * NARROW;
                for (width, ratio) in (2..).zip(&mut self.ratios) {
                    *ratio += (Self::at_first(width) - *ratio) * FORGET;
                }
            }
            2..=WIDEST => {
                // Without passes of one token, this estimate is the reference.
                let one = *self.one.get_or_insert(seconds / Self::at_first(width));
                if one <= 0.0 {
                    return;
                }
                // A wider pass cannot be faster; if it looks so, something held up the narrow one.
                let seen = (seconds / one).max(1.0);
                // Passes of nearly the same width have nearly the same cost per token.
                for (other, ratio) in (2_usize..).zip(&mut self.ratios) {
                    let weight = WIDE * 0.5_f64.powi(other.abs_diff(width) as i32);
                    let here = 1.0 + (seen - 1.0) * (other as f64 - 1.0) / (width as f64 - 1.0);
                    *ratio += (here - *ratio) * weight;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<TokenId> {
        text.bytes().map(|byte| TokenId(byte.into())).collect()
    }

    /// A drafter that saw these tokens come in, and the tokens.
    fn after(text: &str) -> (Drafter, Vec<TokenId>) {
        let all = tokens(text);
        let mut drafter = Drafter::default();
        for end in SAME..=all.len() {
            drafter.came(&all[..end]);
        }
        (drafter, all)
    }

    fn drafts(text: &str, n: usize) -> String {
        let (drafter, all) = after(text);
        let drafts = drafter.drafts(&all, n);
        drafts.iter().map(|token| char::from(token.0 as u8)).collect()
    }

    #[test]
    fn what_followed_the_last_tokens_is_expected_again() {
        assert_eq!(drafts("the quick fox; the q", 4), "uick");
        assert_eq!(drafts("abcd", 4), "");
        assert_eq!(drafts("ab", 4), "");
    }

    #[test]
    fn the_latest_occurrence_counts() {
        assert_eq!(drafts("abcX abcY abc", 1), "Y");
    }

    #[test]
    fn what_goes_round_is_expected_to_go_on() {
        assert_eq!(drafts("ababab", 5), "ababa");
        assert_eq!(drafts("aaaa", 5), "aaaaa");
    }

    #[test]
    fn a_run_goes_on_where_it_was_copied_from() {
        // "bcd" occurred later with another continuation, but the current copy is of the first.
        assert_eq!(drafts("abcde--bcdX--zabcd", 1), "e");
        let (mut drafter, mut all) = after("1234567--3459--12");
        for token in tokens("34") {
            all.push(token);
            drafter.came(&all);
        }
        // Found by "123"; that "234" occurs elsewhere changes nothing.
        assert_eq!(drafter.drafts(&all, 3), tokens("567"));
    }

    #[test]
    fn after_a_word_that_was_changed_the_copy_goes_on() {
        assert_eq!(drafts("the cat sat on the mat. the cat saw", 4), " on ");
        assert_eq!(drafts("she saw: she sew", 4), "");
    }

    #[test]
    fn right_guesses_raise_the_outlook_and_wrong_ones_lower_it() {
        let (copying, _) = after("all that is said is said again; all that is said is said again");
        let outlook = copying.outlook().unwrap();
        assert!(outlook.first > 0.9, "{outlook:?}");
        let mut drafter = Drafter::default();
        let mut all = tokens("abc");
        for n in 0..20 {
            all.extend([TokenId(1000 + n), TokenId(7), TokenId(8), TokenId(9)]);
            for end in all.len() - 3..=all.len() {
                drafter.came(&all[..end]);
            }
        }
        assert!(drafter.first < 0.1, "{drafter:?}");
    }

    fn sure(p: f64) -> Option<Outlook> {
        Some(Outlook { first: p, next: p })
    }

    /// The number of drafts for each sequence, given the cost of a pass by its width, if drafts
    /// themselves cost nothing.
    fn given(outlooks: &[Option<Outlook>], most: usize, cost: impl Fn(usize) -> f64) -> Vec<usize> {
        let width = |drafts: &[usize]| outlooks.len() + drafts.iter().sum::<usize>();
        allot(outlooks, most, |drafts| cost(width(drafts))).drafts
    }

    #[test]
    fn where_wider_passes_cost_nothing_all_drafts_are_fed() {
        assert_eq!(given(&[sure(0.5)], 8, |_| 1.0), [8]);
        assert_eq!(given(&[sure(0.9), None, sure(0.9)], 8, |_| 1.0), [4, 0, 4]);
    }

    #[test]
    fn where_each_token_costs_as_much_as_the_first_none_is() {
        assert_eq!(given(&[sure(1.0)], 8, |width| width as f64), [0]);
    }

    #[test]
    fn the_likelier_the_drafts_the_more_of_them_are_fed() {
        let cost = |width: usize| 0.7 + 0.3 * width as f64;
        let fed = |p| given(&[sure(p)], 15, cost)[0];
        assert_eq!(fed(0.2), 0);
        assert!(0 < fed(0.6) && fed(0.6) < fed(0.9) && fed(0.9) < fed(1.0));
        assert_eq!(fed(1.0), 15);
    }

    #[test]
    fn a_full_batch_leaves_no_room_for_guesses_that_may_be_wrong() {
        // From eight tokens on, each costs the same.
        let cost = |width: usize| 4.0 + (width as f64 - 8.0) * 0.5;
        assert_eq!(given(&[sure(0.8); 8], 8, cost), [0; 8]);
    }

    #[test]
    fn the_dearer_drafts_are_the_fewer_are_computed() {
        let of = |each: f64| {
            let cost = |drafts: &[usize]| 1.0 + (0.1 + each) * drafts[0] as f64;
            allot(&[sure(0.8)], 15, cost).drafts[0]
        };
        assert!(of(0.0) > of(0.1) && of(0.1) > 0);
        assert_eq!(of(1.0), 0);
    }

    #[test]
    fn nobody_expects_anything_nothing_is_fed() {
        assert_eq!(given(&[None, None], 8, |_| 1.0), [0, 0]);
        assert_eq!(given(&[], 8, |_| 1.0), Vec::<usize>::new());
    }

    #[test]
    fn costs_are_what_was_measured_and_slow_ones_are_tried_again_some_time() {
        let mut costs = Costs::default();
        assert_eq!(costs.ratio(1), 1.0);
        let at_first = costs.ratio(8);
        for _ in 0..50 {
            costs.observe(1, 0.010);
            costs.observe(8, 0.080);
        }
        assert!((7.0..9.0).contains(&costs.ratio(8)), "{costs:?}");
        // A nearly equal width is estimated alike.
        assert!(costs.ratio(7) > 5.0, "{costs:?}");
        for _ in 0..20_000 {
            costs.observe(1, 0.010);
        }
        assert!((costs.ratio(8) - at_first).abs() < 0.1, "{costs:?}");
    }
}
