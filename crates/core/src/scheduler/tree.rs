//! A radix tree of the tokens in the cache, and of which sequences hold their cells.
//!
//! A run is a series of consecutive tokens and the cells that cache them. The path of runs from a
//! root down to a sequence's last run is what the sequence has cached. A sequence that began as a
//! copy of another shares runs with it; two sequences that each computed the same tokens have
//! separate cells, in sibling runs. A run without holders is removed, and its cells are free.

use std::collections::BTreeMap;

use crate::{PrefixCache, SeqId, TokenId};

/// Why a sequence holds cells. A run with several holders counts under the first of their reasons,
/// in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hold {
    /// Its request is in the batch.
    Running,
    /// Its request is waiting to continue.
    Paused,
    /// Its request has ended; another one may begin with the same tokens.
    Kept,
}

const HOLDS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct RunId(u64);

#[derive(Debug)]
struct Run {
    parent: Option<RunId>,
    children: Vec<RunId>,
    /// The position of the first token.
    start: usize,
    tokens: Vec<TokenId>,
    /// The number of sequences that hold it, by [`Hold`].
    holders: [u32; HOLDS],
    /// When it was last used.
    used: u64,
}

impl Run {
    fn end(&self) -> usize {
        self.start + self.tokens.len()
    }

    fn hold(&self) -> Option<usize> {
        self.holders.iter().position(|count| *count > 0)
    }
}

#[derive(Debug)]
struct Held {
    hold: Hold,
    /// The last run; `None` if nothing is cached.
    tail: Option<RunId>,
    /// The most tokens it ever had cached. With a sliding window, the first may be overwritten.
    longest: usize,
}

/// The radix tree; see the module page.
#[derive(Debug, Default)]
pub(super) struct Tree {
    runs: BTreeMap<RunId, Run>,
    roots: Vec<RunId>,
    sequences: BTreeMap<SeqId, Held>,
    /// The number of cells, by the [`Hold`] under which their runs count.
    cells: [usize; HOLDS],
    next: u64,
    /// A clock that counts uses.
    now: u64,
}

impl Tree {
    /// The number of cells in use.
    pub(super) fn cells(&self) -> usize {
        self.cells.iter().sum()
    }

    /// The number of cells that count under `hold`.
    pub(super) fn cells_for(&self, hold: Hold) -> usize {
        self.cells[hold as usize]
    }

    /// The number of sequences that hold cells for this reason.
    pub(super) fn sequences(&self, hold: Hold) -> usize {
        let holding = |held: &&Held| held.hold == hold && held.tail.is_some();
        self.sequences.values().filter(holding).count()
    }

    /// The number of tokens that `seq` has cached.
    pub(super) fn cached(&self, seq: SeqId) -> usize {
        let tail = self.sequences.get(&seq).and_then(|held| held.tail);
        tail.and_then(|tail| self.runs.get(&tail)).map_or(0, Run::end)
    }

    /// The tokens that `seq` has cached.
    pub(super) fn tokens(&self, seq: SeqId) -> Vec<TokenId> {
        let mut runs = Vec::new();
        let mut at = self.sequences.get(&seq).and_then(|held| held.tail);
        while let Some(run) = at.and_then(|id| self.runs.get(&id)) {
            runs.push(run.tokens.as_slice());
            at = run.parent;
        }
        runs.reverse();
        runs.concat()
    }

    /// Why `seq` holds cells, if it is open.
    pub(super) fn hold(&self, seq: SeqId) -> Option<Hold> {
        self.sequences.get(&seq).map(|held| held.hold)
    }

    /// The sequences of ended requests.
    pub(super) fn kept(&self) -> impl Iterator<Item = SeqId> {
        let kept = self.sequences.iter().filter(|(_, held)| held.hold == Hold::Kept);
        kept.map(|(seq, _)| *seq)
    }

    /// Whether a kept sequence holds exactly what `seq` does.
    pub(super) fn is_kept(&self, seq: SeqId) -> bool {
        let tail = self.sequences.get(&seq).and_then(|held| held.tail);
        self.sequences.values().any(|held| held.hold == Hold::Kept && held.tail == tail)
    }

    /// Opens `seq`, empty, for a request in the batch.
    pub(super) fn open(&mut self, seq: SeqId) {
        self.close(seq);
        self.sequences.insert(seq, Held { hold: Hold::Running, tail: None, longest: 0 });
    }

    /// Closes `seq` and frees the cells that no other sequence holds.
    pub(super) fn close(&mut self, seq: SeqId) {
        self.truncate(seq, 0);
        self.sequences.remove(&seq);
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Changes the reason why `seq` holds its cells, and marks them as used now.
    pub(super) fn hold_for(&mut self, seq: SeqId, hold: Hold) {
        self.now += 1;
        let Some(held) = self.sequences.get_mut(&seq) else { return };
        let before = std::mem::replace(&mut held.hold, hold);
        let mut at = held.tail;
        while let Some(id) = at {
            self.recount(id, Some(before), Some(hold));
            at = self.runs.get_mut(&id).and_then(|run| {
                run.used = self.now;
                run.parent
            });
        }
    }

    /// Appends computed `tokens` to `seq`.
    pub(super) fn append(&mut self, seq: SeqId, tokens: &[TokenId]) {
        let end = self.cached(seq);
        let Some(held) = self.sequences.get_mut(&seq) else { return };
        if tokens.is_empty() {
            return;
        }
        held.longest = held.longest.max(end + tokens.len());
        if let Some(run) = held.tail.and_then(|tail| self.runs.get_mut(&tail))
            && run.holders.iter().sum::<u32>() == 1
        {
            run.tokens.extend_from_slice(tokens);
            self.cells[held.hold as usize] += tokens.len();
            return;
        }
        let (parent, hold) = (held.tail, held.hold);
        self.next += 1;
        let id = RunId(self.next);
        held.tail = Some(id);
        let (children, holders) = (Vec::new(), [0; HOLDS]);
        let tokens = tokens.to_vec();
        let run = Run { parent, children, start: end, tokens, holders, used: self.now };
        self.runs.insert(id, run);
        self.siblings(parent).push(id);
        self.recount(id, None, Some(hold));
    }

    /// Makes `to`, which has nothing cached, share the first `n` tokens of `from`.
    pub(super) fn share(&mut self, from: SeqId, to: SeqId, n: usize) {
        let mut at = self.sequences.get(&from).and_then(|held| held.tail);
        while let Some(id) = at
            && self.runs.get(&id).is_some_and(|run| run.start >= n)
        {
            at = self.runs.get(&id).and_then(|run| run.parent);
        }
        let Some(tail) = at.map(|id| self.split(id, n)) else { return };
        let Some(held) = self.sequences.get_mut(&to) else { return };
        (held.tail, held.longest) = (Some(tail), n);
        let hold = held.hold;
        self.now += 1;
        let mut at = Some(tail);
        while let Some(id) = at {
            self.recount(id, None, Some(hold));
            at = self.runs.get_mut(&id).and_then(|run| {
                run.used = self.now;
                run.parent
            });
        }
    }

    /// Frees all but the first `keep` tokens of `seq`.
    pub(super) fn truncate(&mut self, seq: SeqId, keep: usize) {
        let Some(held) = self.sequences.get(&seq) else { return };
        let (hold, mut at) = (held.hold, held.tail);
        while let Some(id) = at
            && self.runs.get(&id).is_some_and(|run| run.end() > keep)
        {
            if self.runs.get(&id).is_some_and(|run| run.start < keep) {
                self.split(id, keep);
            }
            at = self.runs.get(&id).and_then(|run| run.parent);
            self.recount(id, Some(hold), None);
        }
        if let Some(held) = self.sequences.get_mut(&seq) {
            held.tail = at;
            if at.is_none() {
                held.longest = 0;
            }
        }
    }

    /// The sequence that shares the longest usable prefix with `tokens`, and the prefix's length.
    pub(super) fn longest(&self, tokens: &[TokenId], rule: PrefixCache) -> Option<(SeqId, usize)> {
        if rule == PrefixCache::None {
            return None;
        }
        let mut matched: BTreeMap<RunId, usize> = BTreeMap::new();
        let mut ahead: Vec<RunId> = self.roots.clone();
        while let Some(id) = ahead.pop() {
            let Some(run) = self.runs.get(&id) else { continue };
            let same = common(&run.tokens, tokens.get(run.start..).unwrap_or_default());
            if same > 0 {
                matched.insert(id, same);
            }
            if same == run.tokens.len() {
                ahead.extend(&run.children);
            }
        }
        let of = |(seq, held): (&SeqId, &Held)| {
            let mut at = held.tail;
            while let Some(id) = at {
                let run = self.runs.get(&id)?;
                if let Some(same) = matched.get(&id) {
                    let n = run.start + same;
                    let whole = at == held.tail && *same == run.tokens.len();
                    let possible = match rule {
                        PrefixCache::None => false,
                        PrefixCache::Window(window) => whole || held.longest <= window as usize,
                        PrefixCache::Any => true,
                    };
                    return possible.then_some((n, *seq));
                }
                at = run.parent;
            }
            None
        };
        self.sequences.iter().filter_map(of).max().map(|(n, seq)| (seq, n))
    }

    /// The least recently used kept sequence that `may_go` and whose last run is a leaf held only
    /// by kept sequences; and the position where that run begins.
    pub(super) fn least_recent(&self, may_go: impl Fn(SeqId) -> bool) -> Option<(SeqId, usize)> {
        let end = |seq: SeqId| {
            let tail = self.sequences.get(&seq)?.tail?;
            let run = self.runs.get(&tail)?;
            let idle = run.children.is_empty() && run.hold() == Some(Hold::Kept as usize);
            idle.then_some((run.used, seq, run.start))
        };
        self.kept()
            .filter(|seq| may_go(*seq))
            .filter_map(end)
            .min()
            .map(|(_, seq, start)| (seq, start))
    }

    /// A kept sequence that is superfluous: it has no cells, or another sequence holds all of them
    /// and can share them just as well.
    pub(super) fn redundant(&self, rule: PrefixCache) -> Option<SeqId> {
        self.kept().find(|seq| {
            let Some(tail) = self.sequences.get(seq).and_then(|held| held.tail) else {
                return true;
            };
            match rule {
                PrefixCache::Any => {
                    self.runs.get(&tail).is_some_and(|run| run.holders.iter().sum::<u32>() > 1)
                }
                PrefixCache::Window(_) | PrefixCache::None => {
                    let same = |held: &Held| held.hold == Hold::Kept && held.tail == Some(tail);
                    self.sequences.values().filter(|held| same(held)).count() > 1
                }
            }
        })
    }

    fn siblings(&mut self, parent: Option<RunId>) -> &mut Vec<RunId> {
        match parent.and_then(|parent| self.runs.get_mut(&parent)) {
            Some(parent) => &mut parent.children,
            None => &mut self.roots,
        }
    }

    /// Splits a run at position `at`, if it reaches beyond; returns the first part. The second part
    /// keeps the id, because holders refer to their last run.
    fn split(&mut self, id: RunId, at: usize) -> RunId {
        let Some(run) = self.runs.get_mut(&id).filter(|run| run.end() > at) else { return id };
        self.next += 1;
        let upper = RunId(self.next);
        let rest = run.tokens.split_off(at - run.start);
        let first = Run {
            parent: run.parent.replace(upper),
            children: vec![id],
            start: std::mem::replace(&mut run.start, at),
            tokens: std::mem::replace(&mut run.tokens, rest),
            holders: run.holders,
            used: run.used,
        };
        let siblings = self.siblings(first.parent);
        siblings.retain(|sibling| *sibling != id);
        siblings.push(upper);
        self.runs.insert(upper, first);
        upper
    }

    /// Updates one holder's reason for holding a run: changed, added or removed.
    fn recount(&mut self, id: RunId, before: Option<Hold>, after: Option<Hold>) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        if let Some(hold) = run.hold() {
            self.cells[hold] -= run.tokens.len();
        }
        if let Some(before) = before {
            run.holders[before as usize] -= 1;
        }
        if let Some(after) = after {
            run.holders[after as usize] += 1;
        }
        match run.hold() {
            Some(hold) => self.cells[hold] += run.tokens.len(),
            None => {
                let parent = run.parent;
                self.siblings(parent).retain(|sibling| *sibling != id);
                self.runs.remove(&id);
            }
        }
    }
}

/// The number of tokens that two texts have in common at their beginning.
pub(super) fn common(one: &[TokenId], other: &[TokenId]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}
