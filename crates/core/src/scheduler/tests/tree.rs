use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::tree::{Hold, Tree, common};
use crate::{PrefixCache, SeqId, TokenId};

#[derive(Debug, Clone)]
enum Act {
    Open(u32),
    Close(u32),
    Append(u32, Vec<i32>),
    Truncate(u32, usize),
    Share(u32, u32, usize),
    HoldFor(u32, Hold),
    Evict,
}

const SEQUENCES: u32 = 5;

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let seq = || 0..SEQUENCES;
    let hold = prop::sample::select(vec![Hold::Running, Hold::Paused, Hold::Kept]);
    let act = prop_oneof![
        1 => seq().prop_map(Act::Open),
        1 => seq().prop_map(Act::Close),
        4 => (seq(), prop::collection::vec(0..2, 1..6)).prop_map(|(s, t)| Act::Append(s, t)),
        2 => (seq(), 0usize..12).prop_map(|(seq, keep)| Act::Truncate(seq, keep)),
        4 => (seq(), seq(), 1usize..12).prop_map(|(from, to, n)| Act::Share(from, to, n)),
        2 => (seq(), hold).prop_map(|(seq, hold)| Act::HoldFor(seq, hold)),
        1 => Just(Act::Evict),
    ];
    prop::collection::vec(act, 1..80)
}

/// The same without a tree: each sequence has a list of cells.
#[derive(Default)]
struct Model {
    sequences: BTreeMap<SeqId, (Hold, Vec<(u64, TokenId)>)>,
    next: u64,
}

impl Model {
    fn cells_for(&self, hold: Hold) -> usize {
        let mut first: BTreeMap<u64, Hold> = BTreeMap::new();
        for (hold, cells) in self.sequences.values() {
            for (cell, _) in cells {
                first.entry(*cell).and_modify(|h| *h = (*h).min(*hold)).or_insert(*hold);
            }
        }
        first.values().filter(|h| **h == hold).count()
    }

    fn longest(&self, tokens: &[TokenId]) -> usize {
        let same = |cells: &[(u64, TokenId)]| {
            common(&cells.iter().map(|(_, token)| *token).collect::<Vec<_>>(), tokens)
        };
        self.sequences.values().map(|(_, cells)| same(cells)).max().unwrap_or(0)
    }
}

proptest! {
    #[test]
    fn the_tree_counts_what_lists_of_cells_would(
        acts in acts(),
        asked in prop::collection::vec(prop::collection::vec(0..2, 0..12), 1..4),
    ) {
        let (mut tree, mut model) = (Tree::default(), Model::default());
        for act in acts {
            match act {
                Act::Open(seq) => {
                    tree.open(SeqId(seq));
                    model.sequences.insert(SeqId(seq), (Hold::Running, Vec::new()));
                }
                Act::Close(seq) => {
                    tree.close(SeqId(seq));
                    model.sequences.remove(&SeqId(seq));
                }
                Act::Append(seq, tokens) => {
                    let tokens: Vec<TokenId> = tokens.into_iter().map(TokenId).collect();
                    tree.append(SeqId(seq), &tokens);
                    if let Some((_, cells)) = model.sequences.get_mut(&SeqId(seq)) {
                        for token in tokens {
                            model.next += 1;
                            cells.push((model.next, token));
                        }
                    }
                }
                Act::Truncate(seq, keep) => {
                    tree.truncate(SeqId(seq), keep);
                    if let Some((_, cells)) = model.sequences.get_mut(&SeqId(seq)) {
                        cells.truncate(keep);
                    }
                }
                Act::Share(from, to, n) => {
                    let (from, to) = (SeqId(from), SeqId(to));
                    let there = tree.cached(from) >= n && tree.hold(to).is_some() && from != to;
                    if there {
                        tree.truncate(to, 0);
                        tree.share(from, to, n);
                        let cells = model.sequences[&from].1[..n].to_vec();
                        model.sequences.get_mut(&to).unwrap().1 = cells;
                    }
                }
                Act::HoldFor(seq, hold) => {
                    tree.hold_for(SeqId(seq), hold);
                    if let Some((held, _)) = model.sequences.get_mut(&SeqId(seq)) {
                        *held = hold;
                    }
                }
                Act::Evict => {
                    if let Some((seq, start)) = tree.least_recent(|_| true) {
                        let before = tree.cells();
                        prop_assert_eq!(tree.hold(seq), Some(Hold::Kept));
                        tree.truncate(seq, start);
                        model.sequences.get_mut(&seq).unwrap().1.truncate(start);
                        let others = tree.kept().filter(|kept| tree.cached(*kept) > start).count();
                        prop_assert!(tree.cells() < before || others > 0);
                    }
                }
            }
            for hold in [Hold::Running, Hold::Paused, Hold::Kept] {
                prop_assert_eq!(tree.cells_for(hold), model.cells_for(hold));
            }
            for (seq, (_, cells)) in &model.sequences {
                prop_assert_eq!(tree.cached(*seq), cells.len());
            }
        }
        for tokens in asked {
            let tokens: Vec<TokenId> = tokens.into_iter().map(TokenId).collect();
            let found = tree.longest(&tokens, PrefixCache::Any);
            prop_assert_eq!(found.map_or(0, |(_, n)| n), model.longest(&tokens));
            if let Some((seq, n)) = found {
                let cells = &model.sequences[&seq].1[..n];
                prop_assert!(cells.iter().map(|(_, token)| token).eq(&tokens[..n]));
            }
            let whole = tree.longest(&tokens, PrefixCache::Window(0));
            if let Some((seq, n)) = whole {
                prop_assert_eq!(n, model.sequences[&seq].1.len());
            }
        }
    }
}
