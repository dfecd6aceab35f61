//! Whether an answer does nothing but repeat itself.
//!
//! Small models fall into loops, and nothing gets them out again: what was just said makes saying
//! it once more the likeliest of all. The rule looks at tokens alone, so the same answer ends at the
//! same place whatever else runs, and asks for exact repetition over so long a stretch that a table,
//! code or a refrain does not come near it: a single number that counts up breaks it.

use crate::TokenId;

/// The longest passage that is looked for, in tokens.
const LONGEST: usize = 256;

/// How often it must be there, back to back.
const TIMES: usize = 8;

/// After how many tokens it is looked again.
const EVERY: usize = 32;

/// Whether `answer` ends in one passage of at most [`LONGEST`] tokens, said [`TIMES`] times or more
/// and over `limit` tokens or more. Of an answer that grows by a token at a time, it is looked at only
/// every [`EVERY`] tokens.
pub(super) fn only_repeats(answer: &[TokenId], limit: usize) -> bool {
    answer.len().is_multiple_of(EVERY)
        && (1..=LONGEST).any(|passage| {
            let from = answer.len().checked_sub(limit.max(passage * TIMES));
            from.is_some_and(|from| {
                answer[from + passage..] == answer[from..answer.len() - passage]
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 1024;

    /// After how many of these tokens it ends.
    fn ends(tokens: impl IntoIterator<Item = i32>) -> Option<usize> {
        let tokens: Vec<TokenId> = tokens.into_iter().map(TokenId).collect();
        (1..=tokens.len()).find(|&said| only_repeats(&tokens[..said], LIMIT))
    }

    fn repeated(passage: i32, tokens: usize) -> impl Iterator<Item = i32> {
        (0..passage).cycle().take(tokens)
    }

    #[test]
    fn a_passage_said_over_and_over_ends_the_answer() {
        for (passage, after) in [(1, 1024), (7, 1024), (60, 1024), (200, 1600), (256, 2048)] {
            assert_eq!(ends(repeated(passage, 4096)), Some(after), "{passage}");
        }
    }

    #[test]
    fn what_was_said_before_it_does_not_hide_it() {
        let after = ends((1000..1500).chain(repeated(5, 4096))).unwrap();
        assert!((1524..1524 + EVERY).contains(&after), "{after}");
    }

    #[test]
    fn tables_lists_and_code_go_on() {
        // A row of 40 tokens of which only the number changes.
        let table = (0..200).flat_map(|row| (0..39).chain([1000 + row]));
        // Two numbers take turns with growing gaps.
        let pattern = (1..90).flat_map(|run| std::iter::repeat_n(1, run).chain([2]));
        // A line written a hundred times as a punishment, a matrix of 16 rows of zeros.
        let lines = repeated(9, 900);
        let zeros = repeated(2, 16 * 32 * 2 - 32);
        assert_eq!(ends(table), None);
        assert_eq!(ends(pattern), None);
        assert_eq!(ends(lines.chain(500..3000)), None);
        assert_eq!(ends(zeros.chain(500..3000)), None);
        // Too long a passage to be a loop: a document that is copied again and again.
        assert_eq!(ends(repeated(257, 8192)), None);
    }

    proptest! {
        /// The rule, word for word.
        #[test]
        fn it_ends_exactly_where_the_rule_says(
            passage in 1usize..300, before in 0usize..100, tokens in 0usize..3000,
        ) {
            let said = (5000..).take(before).chain((0..).map(|n| n % passage as i32).take(tokens));
            let span = LIMIT.max(passage * TIMES);
            let first = (before + span).next_multiple_of(EVERY);
            let expected = (passage <= LONGEST && first <= before + tokens).then_some(first);
            prop_assert_eq!(ends(said), expected);
        }
    }
}
