//! The keys and values of a block of cells, and the sum of weighted values.

use super::lanes::Lanes;
use super::tiles::BLOCK;

/// The keys or values of a block's cells, in some format.
///
/// # Safety
/// Every function must be inlined into one that enables what `L` needs, and `cell` must be an index
/// into the block.
pub(crate) trait Numbers: Copy {
    type Number;

    /// Where the numbers of a cell begin.
    unsafe fn of(self, cell: usize) -> *const Self::Number;

    /// Loads one vector.
    unsafe fn load<L: Lanes>(from: *const Self::Number) -> L;
}

/// Numbers of one KV head as they lie in the cache: 16-bit floats.
#[derive(Clone, Copy)]
pub(crate) struct Cached<'a> {
    pub(crate) head: *const u8,
    /// Stride from one cell to the next, in bytes.
    pub(crate) stride: usize,
    /// The block's cells.
    pub(crate) cells: &'a [u32],
}

impl Numbers for Cached<'_> {
    type Number = u16;

    #[inline(always)]
    unsafe fn of(self, cell: usize) -> *const u16 {
        // Unchecked, because this is the second innermost loop.
        unsafe { self.head.add(*self.cells.get_unchecked(cell) as usize * self.stride).cast() }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u16) -> L {
        unsafe { L::load_f16(from) }
    }
}

impl Cached<'_> {
    /// Writes `n` numbers of each cell to `to`, cell by cell, as 32-bit floats.
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

/// Numbers converted to 32-bit floats, cell by cell.
#[derive(Clone, Copy)]
pub(crate) struct Converted {
    pub(crate) numbers: *const f32,
    /// The number of floats per cell.
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

/// The weights of some rows over the cells of a block, and where their weighted values are summed.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    /// [`BLOCK`] for each row.
    pub(crate) weights: *const f32,
    /// `value` numbers for each row.
    pub(crate) out: *mut f32,
    /// The length of a value, in numbers.
    pub(crate) value: usize,
    /// The number of cells in the block.
    pub(crate) cells: usize,
}

impl Sums {
    /// The same, from a later row on.
    #[inline(always)]
    pub(crate) unsafe fn from(self, row: usize) -> Self {
        unsafe {
            let (weights, out) = (self.weights.add(row * BLOCK), self.out.add(row * self.value));
            Self { weights, out, ..self }
        }
    }

    /// Adds the weighted values of one to four rows.
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
        // With four rows the sums take half of the registers: four vectors of 16 floats each, or
        // two of 8.
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

    /// Adds some vectors of some rows, keeping the sums in registers over all cells.
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
