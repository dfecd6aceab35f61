//! Which cells each token of a forward pass attends to, read from the mask once for all layers.

use std::ops::Range;
use std::sync::OnceLock;

/// The number of cells processed together.
pub(crate) const BLOCK: usize = 32;

/// The maximum number of tokens in a tile.
const TILE: usize = 64;

/// A cell is rarely seen if at most one in this many tokens of its tile attends to it.
const FEW: usize = 4;

/// Splits the tokens of a forward pass into tiles: runs of tokens with the same kin, which have
/// most of their cells in common.
pub(crate) fn tiles(kin: &[u32]) -> Vec<Range<usize>> {
    let mut tiles: Vec<Range<usize>> = Vec::new();
    for (token, own) in kin.iter().enumerate() {
        match tiles.last_mut() {
            Some(tile) if tile.len() < TILE && kin[tile.start] == *own => tile.end += 1,
            _ => tiles.push(token..token + 1),
        }
    }
    tiles
}

/// The cells that the tokens of a tile attend to.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    /// Every cell that any token of the tile attends to: first the widely seen cells in order, then
    /// the rarely seen ones, sorted by the first token that attends to them, so that a block of
    /// those concerns few tokens.
    pub(crate) cells: Vec<u32>,
    /// For each [`BLOCK`] of cells, then each token: one bit per cell, set if the token attends to
    /// it.
    pub(crate) seen: Vec<u32>,
}

impl Cells {
    /// The number of blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.cells.len().div_ceil(BLOCK)
    }

    /// Reads the cells of some tokens from the mask.
    ///
    /// # Safety
    /// `mask` has one row for each token, `stride` bytes apart, of `n` 16-bit floats.
    unsafe fn read(mask: *const u8, stride: usize, tokens: Range<usize>, n: usize) -> Self {
        let row = |token: usize| {
            // SAFETY: by the caller's promise.
            unsafe { std::slice::from_raw_parts(mask.add(token * stride).cast::<u16>(), n) }
        };
        let n_tokens = tokens.len();
        let words = n.div_ceil(BLOCK);
        let mut bits = vec![0_u32; n_tokens * words];
        let mut any = vec![0_u32; words];
        for (index, token) in tokens.enumerate() {
            let own = &mut bits[index * words..(index + 1) * words];
            for ((word, any), chunk) in own.iter_mut().zip(&mut any).zip(row(token).chunks(BLOCK)) {
                *word = unmasked(chunk);
                *any |= *word;
            }
        }
        let mut cells = Vec::with_capacity(any.iter().map(|word| word.count_ones() as usize).sum());
        for (word, any) in any.iter().enumerate() {
            let mut left = *any;
            while left != 0 {
                cells.push((word * BLOCK) as u32 + left.trailing_zeros());
                left &= left - 1;
            }
        }
        let looks =
            |own: &[u32], cell: u32| own[cell as usize / BLOCK] >> (cell as usize % BLOCK) & 1;
        if n_tokens >= FEW {
            cells.sort_by_cached_key(|cell| {
                let mut looking =
                    bits.chunks_exact(words).enumerate().filter(|(_, own)| looks(own, *cell) == 1);
                let first = looking.next().map_or(0, |(token, _)| token);
                if 1 + looking.count() > n_tokens / FEW { 0 } else { 1 + first }
            });
        }
        let mut seen = Vec::with_capacity(cells.len().div_ceil(BLOCK) * n_tokens);
        for block in cells.chunks(BLOCK) {
            for own in bits.chunks_exact(words) {
                seen.push(block.iter().rev().fold(0, |seen, cell| seen << 1 | looks(own, *cell)));
            }
        }
        Self { cells, seen }
    }
}

/// One bit for each of up to [`BLOCK`] cells, set if it is not masked. A mask holds only zeros and
/// minus infinities.
fn unmasked(mask: &[u16]) -> u32 {
    const DROP: u16 = 0xfc00;
    mask.iter().rev().fold(0, |word, value| word << 1 | u32::from(*value != DROP))
}

/// The cells of all tiles under one mask, each computed when first needed.
#[derive(Debug)]
pub(crate) struct Masked {
    cells: Vec<OnceLock<Cells>>,
}

impl Masked {
    pub(crate) fn new(tiles: usize) -> Self {
        Self { cells: (0..tiles).map(|_| OnceLock::new()).collect() }
    }

    /// The cells of one tile, which consists of `tokens`.
    ///
    /// # Safety
    /// As for [`Cells::read`], and with the same mask in every call.
    pub(crate) unsafe fn of(
        &self,
        tile: usize,
        tokens: Range<usize>,
        mask: *const u8,
        stride: usize,
        n: usize,
    ) -> &Cells {
        // SAFETY: by the caller's promise.
        self.cells[tile].get_or_init(|| unsafe { Cells::read(mask, stride, tokens, n) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_has_tokens_of_one_sequence() {
        assert_eq!(tiles(&[3, 3, 1, 2, 2]), [0..2, 2..3, 3..5]);
        let long = vec![7; 2 * TILE + 1];
        assert_eq!(tiles(&long), [0..TILE, TILE..2 * TILE, 2 * TILE..2 * TILE + 1]);
    }

    #[test]
    fn the_cells_are_those_that_the_mask_leaves() {
        // Two tokens, 70 cells: the first attends to 1, 40 and 69, the second also to 2.
        let n = 70;
        let mut mask = vec![0xfc00_u16; 2 * n];
        for (token, cell) in [(0, 1), (0, 40), (0, 69), (1, 1), (1, 2), (1, 40), (1, 69)] {
            mask[token * n + cell] = 0;
        }
        // SAFETY: two rows of 70.
        let cells = unsafe { Cells::read(mask.as_ptr().cast(), n * 2, 0..2, n) };
        assert_eq!(cells.cells, [1, 2, 40, 69]);
        assert_eq!(cells.seen, [0b1101, 0b1111]);
        assert_eq!(cells.blocks(), 1);
    }

    #[test]
    fn cells_that_few_tokens_look_at_come_last_by_token() {
        // Four tokens: all attend to the cells 0 and 5, and each to one of its own.
        let n = 8;
        let mut mask = vec![0xfc00_u16; 4 * n];
        for (token, own) in [7, 1, 6, 2].into_iter().enumerate() {
            for cell in [0, 5, own] {
                mask[token * n + cell] = 0;
            }
        }
        // SAFETY: four rows of eight.
        let cells = unsafe { Cells::read(mask.as_ptr().cast(), n * 2, 0..4, n) };
        assert_eq!(cells.cells, [0, 5, 7, 1, 6, 2]);
        assert_eq!(cells.seen, [0b111, 0b1011, 0b1_0011, 0b10_0011]);
    }

    #[test]
    fn many_cells_are_several_blocks() {
        let n = 100;
        let mut mask = vec![0_u16; n];
        mask[50] = 0xfc00;
        // SAFETY: one row of 100.
        let cells = unsafe { Cells::read(mask.as_ptr().cast(), n * 2, 0..1, n) };
        assert_eq!(cells.cells.len(), 99);
        assert_eq!(cells.blocks(), 4);
        assert_eq!(cells.seen, [u32::MAX, u32::MAX, u32::MAX, 0b111]);
        assert_eq!(cells.cells[50], 51);
    }
}
