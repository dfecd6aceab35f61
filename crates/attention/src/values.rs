//! Keys and values of a block of cells, and the sum of weighted values.

use super::lanes::Lanes;
use super::tiles::BLOCK;

/// Some numbers of each cell of a block.
///
/// # Safety
/// Every function is inlined into one that enables what `L` needs, and a cell is one of the block's.
pub(crate) trait Numbers: Copy {
    type Number;

    /// Where those of a cell of the block begin.
    unsafe fn of(self, cell: usize) -> *const Self::Number;

    /// As many as a vector has.
    unsafe fn load<L: Lanes>(from: *const Self::Number) -> L;
}

/// As they lie in the cache, of one of its heads: 16-bit floats.
#[derive(Clone, Copy)]
pub(crate) struct Cached<'a> {
    pub(crate) head: *const u8,
    /// From one cell's to the next one's, in bytes.
    pub(crate) stride: usize,
    /// The block's cells.
    pub(crate) cells: &'a [u32],
}

impl Numbers for Cached<'_> {
    type Number = u16;

    #[inline(always)]
    unsafe fn of(self, cell: usize) -> *const u16 {
        // No check of the bound: this is the innermost loop but one.
        unsafe { self.head.add(*self.cells.get_unchecked(cell) as usize * self.stride).cast() }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u16) -> L {
        unsafe { L::load_f16(from) }
    }
}

impl Cached<'_> {
    /// Writes them cell by cell, `n` numbers of each, as 32-bit floats.
    #[inline(always)]
    pub(crate) unsafe fn convert<L: Lanes>(self, n: usize, to: &mut [f32]) {
        for (cell, to) in (0..self.cells.len()).zip(to.chunks_exact_mut(n)) {
            unsafe {
                let from = self.of(cell);
                for at in (0..n).step_by(L::N) {
                    L::load_f16(from.add(at)).store(to.as_mut_ptr().add(at));
                }
            }
        }
    }
}

/// Converted, cell by cell.
#[derive(Clone, Copy)]
pub(crate) struct Converted {
    pub(crate) numbers: *const f32,
    /// Numbers of a cell.
    pub(crate) n: usize,
}

impl Numbers for Converted {
    type Number = f32;

    #[inline(always)]
    unsafe fn of(self, cell: usize) -> *const f32 {
        unsafe { self.numbers.add(cell * self.n) }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const f32) -> L {
        unsafe { L::load(from) }
    }
}

/// Weights of some rows over the cells of a block, and where their weighted values are added up.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    /// [`BLOCK`] for each row.
    pub(crate) weights: *const f32,
    /// As many numbers for each row as a value has.
    pub(crate) out: *mut f32,
    /// Numbers of a value.
    pub(crate) value: usize,
    /// Cells of the block.
    pub(crate) cells: usize,
}

impl Sums {
    /// The same from a later row on.
    #[inline(always)]
    pub(crate) unsafe fn from(self, row: usize) -> Self {
        unsafe {
            let (weights, out) = (self.weights.add(row * BLOCK), self.out.add(row * self.value));
            Self { weights, out, ..self }
        }
    }

    /// Adds up the values of one to four rows.
    #[inline(always)]
    pub(crate) unsafe fn add<L: Lanes, N: Numbers>(self, rows: usize, values: N) {
        unsafe {
            match rows {
                1 => self.add_rows::<L, N, 1>(values),
                2 => self.add_rows::<L, N, 2>(values),
                3 => self.add_rows::<L, N, 3>(values),
                _ => self.add_rows::<L, N, 4>(values),
            }
        }
    }

    #[inline(always)]
    unsafe fn add_rows<L: Lanes, N: Numbers, const ROWS: usize>(self, values: N) {
        // Four vectors of sixteen, two of eight: with four rows half of the registers.
        let wide = if L::N == 16 { 4 } else { 2 };
        let mut number = 0;
        while number < self.value {
            let vectors = if self.value - number >= wide * L::N { wide } else { 1 };
            unsafe {
                match vectors {
                    4 => self.add_numbers::<L, N, ROWS, 4>(values, number),
                    2 => self.add_numbers::<L, N, ROWS, 2>(values, number),
                    _ => self.add_numbers::<L, N, ROWS, 1>(values, number),
                }
            }
            number += vectors * L::N;
        }
    }

    /// Some vectors of some rows, which stay in registers over all cells.
    #[inline(always)]
    unsafe fn add_numbers<L: Lanes, N: Numbers, const ROWS: usize, const VECTORS: usize>(
        self,
        values: N,
        number: usize,
    ) {
        unsafe {
            let out = |row: usize, at: usize| self.out.add(row * self.value + number + at * L::N);
            let mut sums = [[L::zero(); VECTORS]; ROWS];
            for (row, sums) in sums.iter_mut().enumerate() {
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(out(row, at));
                }
            }
            for cell in 0..self.cells {
                let from = values.of(cell).add(number);
                let mut numbers = [L::zero(); VECTORS];
                for (at, numbers) in numbers.iter_mut().enumerate() {
                    *numbers = N::load(from.add(at * L::N));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let weight = L::splat(*self.weights.add(row * BLOCK + cell));
                    for (numbers, sum) in numbers.iter().zip(sums) {
                        *sum = numbers.mul_add(weight, *sum);
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (at, sum) in sums.into_iter().enumerate() {
                    sum.store(out(row, at));
                }
            }
        }
    }
}
