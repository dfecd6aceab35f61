//! The dummy's KV cache: which cells are in use, and by how many sequences.

use std::collections::HashMap;

use threadrunner_core::TokenId;

/// A cell and the token cached in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    number: u64,
    pub(super) token: TokenId,
}

/// All cells in use.
#[derive(Debug, Default)]
pub(super) struct Cells {
    holders: HashMap<u64, u32>,
    made: u64,
    computed: u64,
}

impl Cells {
    /// The number of cells in use.
    pub(super) fn used(&self) -> usize {
        self.holders.len()
    }

    /// The number of tokens that were ever computed.
    #[cfg(test)]
    pub(super) fn computed(&self) -> u64 {
        self.computed
    }

    /// Takes a cell for a token that was just computed.
    pub(super) fn compute(&mut self, token: TokenId) -> Cell {
        self.computed += 1;
        self.restore(token)
    }

    /// Takes a cell for a token that was computed earlier.
    pub(super) fn restore(&mut self, token: TokenId) -> Cell {
        self.made += 1;
        self.holders.insert(self.made, 1);
        Cell { number: self.made, token }
    }

    /// Adds a sequence that holds the cell.
    pub(super) fn hold(&mut self, cell: &Cell) {
        *self.holders.entry(cell.number).or_default() += 1;
    }

    /// Removes a sequence that holds the cell. The last one frees it.
    pub(super) fn release(&mut self, cell: &Cell) {
        if let Some(holders) = self.holders.get_mut(&cell.number) {
            *holders -= 1;
            if *holders == 0 {
                self.holders.remove(&cell.number);
            }
        }
    }
}
