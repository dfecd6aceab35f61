//! The running result of attention rows: softmax, computed online.
//!
//! Each row keeps the largest score so far, the sum of the weights relative to it, and the weighted
//! sum of values (Milakov and Gimelshein, arXiv 1805.02867). States computed over different cells
//! can be [joined](State::join).

use super::lanes::Lanes;
use super::tiles::BLOCK;

/// The running result of some rows.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The largest score of each row.
    largest: Vec<f32>,
    /// The sum of the weights of each row.
    sum: Vec<f32>,
    /// The weighted sum of values of each row.
    pub(crate) out: Vec<f32>,
}

impl State {
    /// Starts empty, with `rows` rows and values of `value` numbers.
    pub(crate) fn begin(&mut self, rows: usize, value: usize) {
        self.largest.clear();
        self.largest.resize(rows, f32::NEG_INFINITY);
        self.sum.clear();
        self.sum.resize(rows, 0.0);
        self.out.clear();
        self.out.resize(rows * value, 0.0);
    }

    /// Turns a row's scores for a block of `n` cells into weights, and rescales the row if the
    /// largest score grows. The row attends to the cells whose bit in `seen` is set; the weights of
    /// the others are zero.
    ///
    /// # Safety
    /// The processor supports what `L` needs. Must be inlined into a function that enables it.
    #[inline(always)]
    pub(crate) unsafe fn weigh<L: Lanes>(
        &mut self,
        row: usize,
        value: usize,
        scores: &mut [f32],
        seen: u32,
        n: usize,
    ) {
        if seen == 0 {
            scores.fill(0.0);
            return;
        }
        scores[n..].fill(f32::NEG_INFINITY);
        if seen.count_ones() as usize != n {
            for (at, score) in scores[..n].iter_mut().enumerate() {
                if seen >> at & 1 == 0 {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
        unsafe {
            let scores = scores.as_mut_ptr();
            let mut largest = L::load(scores);
            for at in (L::N..BLOCK).step_by(L::N) {
                largest = largest.max(L::load(scores.add(at)));
            }
            let before = self.largest[row];
            let largest = largest.largest().max(before);
            let minus = L::splat(-largest);
            let mut sum = L::zero();
            for at in (0..BLOCK).step_by(L::N) {
                let weight = L::load(scores.add(at)).add(minus).exp2();
                weight.store(scores.add(at));
                sum = sum.add(weight);
            }
            if largest > before {
                self.rescale::<L>(row, value, largest);
            }
            self.sum[row] += sum.sum();
        }
    }

    /// The sum of a row's weights, by which its result is divided in the end.
    pub(crate) fn sum(&self, row: usize) -> f32 {
        self.sum[row]
    }

    /// Rescales a row to a larger score.
    #[inline(always)]
    unsafe fn rescale<L: Lanes>(&mut self, row: usize, value: usize, largest: f32) {
        let before = std::mem::replace(&mut self.largest[row], largest);
        if before == f32::NEG_INFINITY {
            return;
        }
        let factor = (before - largest).exp2();
        self.sum[row] *= factor;
        unsafe {
            let out = self.out.as_mut_ptr().add(row * value);
            for at in (0..value).step_by(L::N) {
                L::load(out.add(at)).mul(L::splat(factor)).store(out.add(at));
            }
        }
    }

    /// The number of floats that [`State::write`] writes.
    pub(crate) fn len(rows: usize, value: usize) -> usize {
        rows * (2 + value)
    }

    /// Writes the state to `to`, for [`State::join`].
    pub(crate) fn write(&self, to: &mut [f32]) {
        let rows = self.largest.len();
        to[..rows].copy_from_slice(&self.largest);
        to[rows..2 * rows].copy_from_slice(&self.sum);
        to[2 * rows..2 * rows + self.out.len()].copy_from_slice(&self.out);
    }

    /// Replaces this state by the sum of `parts`: states over different cells, joined in order.
    #[inline(always)]
    pub(crate) unsafe fn join<'a, L: Lanes>(
        &mut self,
        rows: usize,
        value: usize,
        parts: impl Iterator<Item = &'a [f32]>,
    ) {
        self.begin(rows, value);
        for part in parts {
            for row in 0..rows {
                let (largest, sum) = (part[row], part[rows + row]);
                if sum == 0.0 {
                    continue;
                }
                let before = self.largest[row];
                if largest > before {
                    unsafe { self.rescale::<L>(row, value, largest) };
                }
                let factor = (largest - self.largest[row]).exp2();
                self.sum[row] += sum * factor;
                unsafe {
                    let from = part.as_ptr().add(2 * rows + row * value);
                    let out = self.out.as_mut_ptr().add(row * value);
                    for at in (0..value).step_by(L::N) {
                        let sum = L::load(out.add(at));
                        L::load(from.add(at)).mul_add(L::splat(factor), sum).store(out.add(at));
                    }
                }
            }
        }
    }
}
