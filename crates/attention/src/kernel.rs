//! The attention kernel: softmax(Q K^T) V for some rows and cells, block by block.
//!
//! A row is one query head of one token. The rows of a tile share a KV head, so each key and value
//! is converted to 32 bits once for all of them.

use std::ops::Range;

use super::lanes::Lanes;
use super::state::State;
use super::tiles::{BLOCK, Cells};
use super::values::{Cached, Converted, Numbers, Sums};

/// Up to this many rows per block, keys are multiplied as they lie in the cache; with more, it pays
/// to transpose them first.
const FEW_ROWS: usize = 12;

/// Where attention reads its inputs and writes its result. Strides are in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Tensors {
    /// Queries, 32-bit floats.
    pub q: *const u8,
    /// Stride from one token's queries to the next.
    pub q_token: usize,
    /// Stride from one head's queries to the next.
    pub q_head: usize,
    /// Keys, 16-bit floats.
    pub k: *const u8,
    /// Stride from one cell's keys to the next.
    pub k_cell: usize,
    /// Stride from one head's keys to the next.
    pub k_head: usize,
    /// Values, 16-bit floats.
    pub v: *const u8,
    /// Stride from one cell's values to the next.
    pub v_cell: usize,
    /// Stride from one head's values to the next.
    pub v_head: usize,
    /// The result, 32-bit floats.
    pub out: *mut u8,
    /// Stride from one token's result to the next.
    pub out_token: usize,
    /// Stride from one head's result to the next.
    pub out_head: usize,
    /// The length of a key, in numbers; a multiple of 16.
    pub key: usize,
    /// The length of a value, in numbers; a multiple of 16.
    pub value: usize,
    /// The number of query heads per KV head.
    pub group: usize,
    /// The factor applied to the products of queries and keys.
    pub scale: f32,
}

/// One thread's working memory. It grows as needed and is reused.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Queries, row by row.
    q: Vec<f32>,
    /// The keys of a block, transposed: [`BLOCK`] cells for each number of a key.
    k: Vec<f32>,
    /// The keys of a block, then its values, cell by cell.
    cells: Vec<f32>,
    /// The scores of a block, then its weights: [`BLOCK`] for each row.
    scores: Vec<f32>,
    /// The running result of the rows.
    pub(crate) state: State,
}

/// The rows of a tile that share one KV head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    /// The first token.
    pub(crate) token: usize,
    /// The number of tokens.
    pub(crate) tokens: usize,
    /// The KV head.
    pub(crate) head: usize,
}

impl Tensors {
    /// Computes `rows` over the given blocks of `cells`. The result stays in the scratch.
    ///
    /// # Safety
    /// The pointers describe tensors that have all of `rows` and `cells`, and the processor
    /// supports what `L` needs. Must be inlined into a function that enables it.
    #[inline(always)]
    pub(crate) unsafe fn attend<L: Lanes>(
        &self,
        rows: Rows,
        cells: &Cells,
        blocks: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let all = rows.tokens * self.group;
        scratch.begin(self, all);
        unsafe { self.load_queries::<L>(rows, &mut scratch.q) };
        for block in blocks {
            let block_cells =
                &cells.cells[block * BLOCK..cells.cells.len().min((block + 1) * BLOCK)];
            let seen = &cells.seen[block * rows.tokens..(block + 1) * rows.tokens];
            let Some(looking) = self.looking(seen) else { continue };
            let n = block_cells.len();
            // SAFETY: the head exists.
            let of = |base: *const u8, head: usize, stride: usize| unsafe {
                Cached { head: base.add(rows.head * head), stride, cells: block_cells }
            };
            let keys = of(self.k, self.k_head, self.k_cell);
            let values = of(self.v, self.v_head, self.v_cell);
            unsafe {
                if looking.len() <= FEW_ROWS {
                    self.score_few::<L>(looking.clone(), keys, scratch);
                    self.weigh::<L>(looking.clone(), seen, n, scratch);
                    self.add_values::<L, _>(looking, seen, n, values, scratch);
                } else {
                    keys.convert::<L>(self.key, &mut scratch.cells);
                    scratch.transpose(self.key, n);
                    self.score_block::<L>(looking.clone(), seen, scratch);
                    self.weigh::<L>(looking.clone(), seen, n, scratch);
                    values.convert::<L>(self.value, &mut scratch.cells);
                    let values = Converted { numbers: scratch.cells.as_ptr(), n: self.value };
                    self.add_values::<L, _>(looking, seen, n, values, scratch);
                }
            }
        }
    }

    /// The range from the first to the last row that attends to any cell of a block.
    fn looking(&self, seen: &[u32]) -> Option<Range<usize>> {
        let first = seen.iter().position(|seen| *seen != 0)?;
        let last = seen.iter().rposition(|seen| *seen != 0)?;
        Some(first * self.group..(last + 1) * self.group)
    }

    /// Loads the queries and multiplies them by the scale and by log2(e): weights are powers of 2.
    #[inline(always)]
    unsafe fn load_queries<L: Lanes>(&self, rows: Rows, q: &mut [f32]) {
        unsafe {
            let scale = L::splat(self.scale * std::f32::consts::LOG2_E);
            for (row, to) in q.chunks_exact_mut(self.key).enumerate().take(rows.tokens * self.group)
            {
                let token = rows.token + row / self.group;
                let head = rows.head * self.group + row % self.group;
                let from = self.q.add(token * self.q_token + head * self.q_head).cast::<f32>();
                for at in (0..self.key).step_by(L::N) {
                    L::load(from.add(at)).mul(scale).store(to.as_mut_ptr().add(at));
                }
            }
        }
    }

    /// Computes the scores of `rows` for a block of keys, reading the keys as they lie in the
    /// cache.
    #[inline(always)]
    unsafe fn score_few<L: Lanes>(
        &self,
        rows: Range<usize>,
        keys: Cached<'_>,
        scratch: &mut Scratch,
    ) {
        let (q, scores) = (scratch.q.as_ptr(), scratch.scores.as_mut_ptr());
        for cell in 0..keys.cells.len() {
            let key = unsafe { keys.of(cell) };
            for row in rows.clone().step_by(4) {
                unsafe {
                    let (q, scores) = (q.add(row * self.key), scores.add(row * BLOCK + cell));
                    match rows.end - row {
                        1 => self.dot::<L, 1>(q, key, scores),
                        2 => self.dot::<L, 2>(q, key, scores),
                        3 => self.dot::<L, 3>(q, key, scores),
                        _ => self.dot::<L, 4>(q, key, scores),
                    }
                }
            }
        }
    }

    /// Computes the scores of some rows for one cell.
    #[inline(always)]
    unsafe fn dot<L: Lanes, const ROWS: usize>(
        &self,
        q: *const f32,
        key: *const u16,
        scores: *mut f32,
    ) {
        unsafe {
            let mut sums = [L::zero(); ROWS];
            for at in (0..self.key).step_by(L::N) {
                let k = L::load_f16(key.add(at));
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(q.add(row * self.key + at)).mul_add(k, *sum);
                }
            }
            for (row, sum) in sums.into_iter().enumerate() {
                *scores.add(row * BLOCK) = sum.sum();
            }
        }
    }

    /// Computes scores for a block of transposed keys, skipping rows that attend to none of its
    /// cells.
    #[inline(always)]
    unsafe fn score_block<L: Lanes>(
        &self,
        rows: Range<usize>,
        seen: &[u32],
        scratch: &mut Scratch,
    ) {
        let (q, k) = (scratch.q.as_ptr(), scratch.k.as_ptr());
        let scores = scratch.scores.as_mut_ptr();
        let mut row = rows.start;
        while row < rows.end {
            // One, two, four or eight.
            let many = 1 << L::ROWS.min(rows.end - row).ilog2();
            if self.looks(row, many, seen) {
                unsafe {
                    let (q, scores) = (q.add(row * self.key), scores.add(row * BLOCK));
                    match many {
                        8 => self.multiply::<L, 8>(q, k, scores),
                        4 => self.multiply::<L, 4>(q, k, scores),
                        2 => self.multiply::<L, 2>(q, k, scores),
                        _ => self.multiply::<L, 1>(q, k, scores),
                    }
                }
            }
            row += many;
        }
    }

    /// Computes the scores of some rows for a block.
    #[inline(always)]
    unsafe fn multiply<L: Lanes, const ROWS: usize>(
        &self,
        q: *const f32,
        k: *const f32,
        scores: *mut f32,
    ) {
        unsafe {
            // Four vectors of eight, or two of sixteen.
            let mut sums = [[L::zero(); BLOCK / 8]; ROWS];
            let vectors = BLOCK / L::N;
            for number in 0..self.key {
                let mut keys = [L::zero(); BLOCK / 8];
                for (at, keys) in keys.iter_mut().enumerate().take(vectors) {
                    *keys = L::load(k.add(number * BLOCK + at * L::N));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let factor = L::splat(*q.add(row * self.key + number));
                    for at in 0..vectors {
                        sums[at] = keys[at].mul_add(factor, sums[at]);
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (at, sum) in sums.into_iter().enumerate().take(vectors) {
                    sum.store(scores.add(row * BLOCK + at * L::N));
                }
            }
        }
    }

    /// Turns the scores of a block of `n` cells into weights.
    #[inline(always)]
    unsafe fn weigh<L: Lanes>(
        &self,
        rows: Range<usize>,
        seen: &[u32],
        n: usize,
        scratch: &mut Scratch,
    ) {
        let scores = &mut scratch.scores[rows.start * BLOCK..rows.end * BLOCK];
        for (row, scores) in rows.zip(scores.chunks_exact_mut(BLOCK)) {
            unsafe { scratch.state.weigh::<L>(row, self.value, scores, seen[row / self.group], n) };
        }
    }

    /// Adds the weighted values of a block of `n` cells, skipping rows that attend to none of them.
    #[inline(always)]
    unsafe fn add_values<L: Lanes, N: Numbers>(
        &self,
        rows: Range<usize>,
        seen: &[u32],
        n: usize,
        values: N,
        scratch: &mut Scratch,
    ) {
        let (weights, out) = (scratch.scores.as_ptr(), scratch.state.out.as_mut_ptr());
        let sums = Sums { weights, out, value: self.value, cells: n };
        for row in rows.clone().step_by(4) {
            let many = (rows.end - row).min(4);
            if self.looks(row, many, seen) {
                unsafe { sums.from(row).add::<L, N>(many, values) };
            }
        }
    }

    /// Whether any of `many` rows from `row` on attends to any cell of a block.
    fn looks(&self, row: usize, many: usize, seen: &[u32]) -> bool {
        seen[row / self.group..=(row + many - 1) / self.group].iter().any(|seen| *seen != 0)
    }

    /// Writes the result of `rows`.
    ///
    /// # Safety
    /// As for [`Tensors::attend`].
    #[inline(always)]
    pub(crate) unsafe fn finish<L: Lanes>(&self, rows: Rows, state: &State) {
        for row in 0..rows.tokens * self.group {
            let token = rows.token + row / self.group;
            let head = rows.head * self.group + row % self.group;
            let sum = state.sum(row);
            let factor = if sum == 0.0 { 0.0 } else { 1.0 / sum };
            unsafe {
                let to = self.out.add(token * self.out_token + head * self.out_head).cast::<f32>();
                let from = state.out.as_ptr().add(row * self.value);
                for at in (0..self.value).step_by(L::N) {
                    L::load(from.add(at)).mul(L::splat(factor)).store(to.add(at));
                }
            }
        }
    }
}

impl Scratch {
    fn begin(&mut self, tensors: &Tensors, rows: usize) {
        let fill = |numbers: &mut Vec<f32>, n: usize| {
            if numbers.len() < n {
                numbers.resize(n, 0.0);
            }
        };
        fill(&mut self.q, rows * tensors.key);
        fill(&mut self.scores, rows * BLOCK);
        if rows > FEW_ROWS {
            fill(&mut self.k, BLOCK * tensors.key);
            fill(&mut self.cells, BLOCK * tensors.value.max(tensors.key));
        }
        self.state.begin(rows, tensors.value);
    }

    /// Transposes the keys of a block of `n` cells. Missing cells become zeros.
    #[inline(always)]
    unsafe fn transpose(&mut self, key: usize, n: usize) {
        self.cells[n * key..BLOCK * key].fill(0.0);
        // In squares of eight, which read and write whole cache lines.
        let (from, to) = (self.cells.as_ptr(), self.k.as_mut_ptr());
        for number in (0..key).step_by(8) {
            for cell in (0..BLOCK).step_by(8) {
                unsafe {
                    let mut square = [[0.0_f32; 8]; 8];
                    for (i, line) in square.iter_mut().enumerate() {
                        *line = from.add((cell + i) * key + number).cast::<[f32; 8]>().read();
                    }
                    for (row, to) in
                        (number..number + 8).map(|row| (row, to.add(row * BLOCK + cell)))
                    {
                        let column: [f32; 8] = square.map(|line| line[row - number]);
                        to.cast::<[f32; 8]>().write(column);
                    }
                }
            }
        }
    }
}
