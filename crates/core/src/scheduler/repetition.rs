//! Detects answers that only repeat themselves.
//!
//! Small models fall into loops and do not recover: what was just said makes saying it again the
//! likeliest continuation. Loops are seldom exact; at usual temperatures, two or three sentences
//! alternate, with a word changed now and then. So the test counts the different runs of tokens in
//! a long stretch. A counter makes each row of a table different, and even random bits vary far
//! more than a loop. The test looks at tokens alone, so the same answer ends at the same place
//! whatever else runs.

use std::collections::HashSet;

use crate::TokenId;

/// The length of a run, in tokens. Shorter runs repeat too often even in random bits.
const RUN: usize = 16;

/// How often each run must occur, on average.
const TIMES: usize = 8;

/// Tokens between two checks.
const EVERY: usize = 32;

/// Whether the answer is stuck: in its last `limit` tokens, or its last `2 * limit`, each run of
/// [`RUN`] tokens occurs [`TIMES`] times on average, and the last run more than once. An answer
/// that grows by a token at a time is checked only every [`EVERY`] tokens.
pub(super) fn only_repeats(answer: &[TokenId], limit: usize) -> bool {
    answer.len().is_multiple_of(EVERY)
        && [limit, limit.saturating_mul(2)].into_iter().any(|span| {
            let from = answer.len().checked_sub(span);
            from.is_some_and(|from| is_loop(&answer[from..]))
        })
}

fn is_loop(stretch: &[TokenId]) -> bool {
    let (mut different, most) = (HashSet::new(), stretch.len() / TIMES);
    let mut runs = stretch.windows(RUN).rev();
    let Some(last) = runs.next() else { return false };
    different.insert(last);
    let mut again = false;
    // Stops early if it is not a loop, which is the usual case.
    let few = runs.all(|run| {
        again |= run == last;
        different.insert(run);
        different.len() <= most
    });
    few && again
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 1024;

    /// After how many of these tokens the answer ends.
    fn ends(tokens: impl IntoIterator<Item = i32>) -> Option<usize> {
        let tokens: Vec<TokenId> = tokens.into_iter().map(TokenId).collect();
        (1..=tokens.len()).find(|&said| only_repeats(&tokens[..said], LIMIT))
    }

    fn repeated(passage: i32, tokens: usize) -> impl Iterator<Item = i32> {
        (0..passage).cycle().take(tokens)
    }

    /// Pseudorandom numbers.
    fn random(below: u64) -> impl Iterator<Item = i32> {
        let next = |seed: &u64| Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        std::iter::successors(Some(7_u64), next).map(move |seed| ((seed >> 40) % below) as i32)
    }

    #[test]
    fn a_passage_said_over_and_over_ends_the_answer() {
        for (passage, after) in [(1, 1024), (7, 1024), (60, 1024), (128, 1024), (200, 2048)] {
            assert_eq!(ends(repeated(passage, 4096)), Some(after), "{passage}");
        }
        // Too long a passage to be a loop: a document copied over and over.
        assert_eq!(ends(repeated(300, 8192)), None);
    }

    #[test]
    fn sentences_that_take_turns_end_it_and_what_was_said_before_does_not_hide_them() {
        // Eight tokens each, in random order, differing in one.
        let sentences = || random(2).flat_map(|which| [100 + which, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(ends(sentences().take(4096)), Some(1024));
        let after = ends((1000..1500).chain(sentences().take(4096))).unwrap();
        assert!((1400..1500 + 64).contains(&after), "{after}");
    }

    #[test]
    fn tables_lists_and_code_go_on() {
        // Rows of 40 tokens in which only the number changes.
        let table = (0..80).flat_map(|row| (0..39).chain([1000 + row]));
        assert_eq!(ends(table), None);
        // The same with three-digit numbers, one token per digit.
        let digits = |n: i32| [50 + n / 100, 50 + n / 10 % 10, 50 + n % 10];
        assert_eq!(ends((0..300).flat_map(|row| digits(row).into_iter().chain(0..9))), None);
        // A truth table of ten inputs, each followed by a bar.
        let row = |row: i32| (0..10).rev().flat_map(move |bit| [row >> bit & 1, 2]).chain([3]);
        assert_eq!(ends((0..150).flat_map(row)), None);
        // Coin flips, one per line.
        assert_eq!(ends(random(2).flat_map(|coin| [coin, 2]).take(3000)), None);
        // A line written a hundred times, or a matrix of zeros; then the text continues.
        assert_eq!(ends(repeated(9, 900).chain(500..1500)), None);
        assert_eq!(ends(repeated(2, 992).chain(500..1500)), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_number_that_counts_up_keeps_any_row_going(row in 1_i32..200, rows in 1_i32..400) {
            let rows = (0..rows).flat_map(|number| (0..row).chain([1000 + number]));
            prop_assert_eq!(ends(rows.take(2500)), None);
        }

        #[test]
        fn any_exact_loop_ends_as_soon_as_it_is_long_enough(passage in 1_i32..=128) {
            prop_assert_eq!(ends(repeated(passage, 1100)), Some(LIMIT));
        }
    }
}
