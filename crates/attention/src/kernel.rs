//! The attention of some rows over some cells: softmax(Q K^T) V, block by block.
//!
//! The softmax is computed online (Milakov and Gimelshein, arXiv 1805.02867): each row keeps the
//! largest score so far, the sum of the weights relative to it, and the weighted sum of values. Two
//! halves of the cells can be computed apart and joined ([`join`]).
//!
//! A row is one query head of one token. The rows of a tile share a head of the cache, so each key
//! and value is converted to 32 bits once for all of them.

use super::lanes::Lanes;
use super::tiles::{BLOCK, Cells};

/// Rows up to which keys are multiplied as they lie in the cache; with more it pays to transpose them
/// first.
const FEW_ROWS: usize = 12;

/// Where an attention finds its numbers and puts its result. Strides are in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Tensors {
    /// Queries, 32-bit floats.
    pub q: *const u8,
    /// From one token's queries to the next one's.
    pub q_token: usize,
    /// From one head's queries to the next one's.
    pub q_head: usize,
    /// Keys, 16-bit floats.
    pub k: *const u8,
    /// From one cell's keys to the next one's.
    pub k_cell: usize,
    /// From one head's keys to the next one's.
    pub k_head: usize,
    /// Values, 16-bit floats.
    pub v: *const u8,
    /// From one cell's values to the next one's.
    pub v_cell: usize,
    /// From one head's values to the next one's.
    pub v_head: usize,
    /// The result, 32-bit floats.
    pub out: *mut u8,
    /// From one token's result to the next one's.
    pub out_token: usize,
    /// From one head's result to the next one's.
    pub out_head: usize,
    /// Numbers of a key, a multiple of 16.
    pub key: usize,
    /// Numbers of a value, a multiple of 16.
    pub value: usize,
    /// Query heads for each head of the cache.
    pub group: usize,
    /// What the products of queries and keys are multiplied with.
    pub scale: f32,
}

/// What one thread computes in; it grows to what is needed and is used again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Queries, row by row.
    q: Vec<f32>,
    /// Keys of a block, transposed: for each of their numbers that of each cell.
    k: Vec<f32>,
    /// Values of a block, cell by cell.
    v: Vec<f32>,
    /// Scores of a block, then weights: [`BLOCK`] for each row.
    scores: Vec<f32>,
    state: State,
}

/// What rows have come to.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The largest score of each row.
    largest: Vec<f32>,
    /// The sum of the weights of each row.
    sum: Vec<f32>,
    /// The weighted sum of values of each row.
    out: Vec<f32>,
}

/// The rows of a tile that have one head of the cache in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    /// The first token.
    pub(crate) token: usize,
    /// How many tokens.
    pub(crate) tokens: usize,
    /// The head of the cache.
    pub(crate) head: usize,
}

impl Tensors {
    /// Computes `rows` over the given blocks of `cells`; the result stays in the scratch.
    ///
    /// # Safety
    /// The pointers are those of tensors that have all of `rows` and `cells`, and the processor has
    /// what `L` needs. To be inlined into a function that enables it.
    #[inline(always)]
    pub(crate) unsafe fn attend<L: Lanes>(
        &self,
        rows: Rows,
        cells: &Cells,
        blocks: std::ops::Range<usize>,
        scratch: &mut Scratch,
    ) {
        let n = rows.tokens * self.group;
        let few = n <= FEW_ROWS;
        scratch.begin(self, n, few);
        unsafe { self.load_queries::<L>(rows, &mut scratch.q) };
        let head = |base: *const u8, stride: usize| unsafe { base.add(rows.head * stride) };
        let (keys, values) = (head(self.k, self.k_head), head(self.v, self.v_head));
        for block in blocks {
            let all = &cells.cells[block * BLOCK..cells.cells.len().min((block + 1) * BLOCK)];
            let seen = &cells.seen[block * rows.tokens..(block + 1) * rows.tokens];
            let key = |cell: u32| unsafe { keys.add(cell as usize * self.k_cell).cast::<u16>() };
            let value =
                |cell: u32| unsafe { values.add(cell as usize * self.v_cell).cast::<u16>() };
            unsafe {
                if few {
                    for (at, cell) in all.iter().enumerate() {
                        self.score_one::<L>(n, key(*cell), at, scratch);
                    }
                } else {
                    self.transpose::<L>(all, key, &mut scratch.k, &mut scratch.v);
                    self.score_block::<L>(n, seen, scratch);
                }
                scratch.weigh::<L>(n, self.group, self.value, seen, all.len());
                if few {
                    scratch.add_values::<L>(n, self.value, all, value);
                } else {
                    self.convert::<L>(all, value, &mut scratch.v);
                    scratch.add_block::<L>(n, self.group, self.value, seen, all.len());
                }
            }
        }
    }

    /// Queries, multiplied by the scale, and by the binary logarithm of e: weights are powers of 2.
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

    /// The scores of one cell, for all rows.
    #[inline(always)]
    unsafe fn score_one<L: Lanes>(
        &self,
        rows: usize,
        key: *const u16,
        at: usize,
        scratch: &mut Scratch,
    ) {
        let (q, scores) = (scratch.q.as_ptr(), scratch.scores.as_mut_ptr());
        let mut row = 0;
        while row < rows {
            let many = (rows - row).min(4);
            unsafe {
                let (q, scores) = (q.add(row * self.key), scores.add(row * BLOCK + at));
                match many {
                    1 => self.dot::<L, 1>(q, key, scores),
                    2 => self.dot::<L, 2>(q, key, scores),
                    3 => self.dot::<L, 3>(q, key, scores),
                    _ => self.dot::<L, 4>(q, key, scores),
                }
            }
            row += many;
        }
    }

    /// The scores of one cell, for some rows.
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

    /// The keys of a block, transposed. What a short block lacks is zero.
    #[inline(always)]
    unsafe fn transpose<L: Lanes>(
        &self,
        cells: &[u32],
        key: impl Fn(u32) -> *const u16,
        k: &mut [f32],
        rows: &mut [f32],
    ) {
        unsafe {
            // As rows first, so that the numbers of a cell are read in order.
            for (at, cell) in cells.iter().enumerate() {
                let (from, to) = (key(*cell), rows.as_mut_ptr().add(at * self.key));
                for number in (0..self.key).step_by(L::N) {
                    L::load_f16(from.add(number)).store(to.add(number));
                }
            }
            if cells.len() < BLOCK {
                rows[cells.len() * self.key..BLOCK * self.key].fill(0.0);
            }
            // In squares of eight: each reads and writes whole lines of the processor's cache.
            let (from, to) = (rows.as_ptr(), k.as_mut_ptr());
            for number in (0..self.key).step_by(8) {
                for cell in (0..BLOCK).step_by(8) {
                    let mut square = [[0.0_f32; 8]; 8];
                    for (i, line) in square.iter_mut().enumerate() {
                        *line = from.add((cell + i) * self.key + number).cast::<[f32; 8]>().read();
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

    /// The values of a block as 32-bit floats.
    #[inline(always)]
    unsafe fn convert<L: Lanes>(
        &self,
        cells: &[u32],
        value: impl Fn(u32) -> *const u16,
        v: &mut [f32],
    ) {
        unsafe {
            for (at, cell) in cells.iter().enumerate() {
                let (from, to) = (value(*cell), v.as_mut_ptr().add(at * self.value));
                for number in (0..self.value).step_by(L::N) {
                    L::load_f16(from.add(number)).store(to.add(number));
                }
            }
        }
    }

    /// The scores of a block of transposed keys, but for rows that look at none of it.
    #[inline(always)]
    unsafe fn score_block<L: Lanes>(&self, rows: usize, seen: &[u32], scratch: &mut Scratch) {
        let (q, k) = (scratch.q.as_ptr(), scratch.k.as_ptr());
        let scores = scratch.scores.as_mut_ptr();
        let mut row = 0;
        while row < rows {
            let many = L::ROWS.min(rows - row);
            let tokens = row / self.group..=(row + many - 1) / self.group;
            if seen[tokens].iter().all(|seen| *seen == 0) {
                row += many;
                continue;
            }
            let (q, scores) = unsafe { (q.add(row * self.key), scores.add(row * BLOCK)) };
            unsafe {
                match many {
                    8 => self.multiply::<L, 8>(q, k, scores),
                    4..8 => self.multiply::<L, 4>(q, k, scores),
                    2..4 => self.multiply::<L, 2>(q, k, scores),
                    _ => self.multiply::<L, 1>(q, k, scores),
                }
            }
            row += match many {
                8 => 8,
                4..8 => 4,
                2..4 => 2,
                _ => 1,
            };
        }
    }

    /// The scores of a block for some rows.
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

    /// Writes what `rows` have come to.
    ///
    /// # Safety
    /// As [`Tensors::attend`].
    #[inline(always)]
    pub(crate) unsafe fn finish<L: Lanes>(&self, rows: Rows, state: &State) {
        for row in 0..rows.tokens * self.group {
            let token = rows.token + row / self.group;
            let head = rows.head * self.group + row % self.group;
            let sum = state.sum[row];
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
    fn begin(&mut self, tensors: &Tensors, rows: usize, few: bool) {
        let fill = |numbers: &mut Vec<f32>, n: usize| {
            if numbers.len() < n {
                numbers.resize(n, 0.0);
            }
        };
        fill(&mut self.q, rows * tensors.key);
        fill(&mut self.scores, rows * BLOCK);
        if !few {
            fill(&mut self.k, BLOCK * tensors.key);
            fill(&mut self.v, BLOCK * tensors.value.max(tensors.key));
        }
        self.state.begin(rows, tensors.value);
    }

    /// What the rows have come to.
    pub(crate) fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// What the rows have come to.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Makes weights of the scores of a block, and adapts what there is to a new largest score.
    #[inline(always)]
    unsafe fn weigh<L: Lanes>(
        &mut self,
        rows: usize,
        group: usize,
        value: usize,
        seen: &[u32],
        n: usize,
    ) {
        for row in 0..rows {
            let seen = seen[row / group];
            let scores = &mut self.scores[row * BLOCK..(row + 1) * BLOCK];
            if seen == 0 {
                scores.fill(0.0);
                continue;
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
                let before = self.state.largest[row];
                let largest = largest.largest().max(before);
                let minus = L::splat(-largest);
                let mut sum = L::zero();
                for at in (0..BLOCK).step_by(L::N) {
                    let weight = L::load(scores.add(at)).add(minus).exp2();
                    weight.store(scores.add(at));
                    sum = sum.add(weight);
                }
                let sum = sum.sum();
                if largest > before {
                    self.state.rescale::<L>(row, value, largest);
                }
                self.state.sum[row] += sum;
            }
        }
    }

    /// Adds the weighted values of a few rows, as they lie in the cache.
    #[inline(always)]
    unsafe fn add_values<L: Lanes>(
        &mut self,
        rows: usize,
        value: usize,
        cells: &[u32],
        at: impl Fn(u32) -> *const u16,
    ) {
        let (weights, out) = (self.scores.as_ptr(), self.state.out.as_mut_ptr());
        let mut number = 0;
        while number < value {
            // Four vectors of sixteen, two of eight.
            let wide = if L::N == 16 { 4 } else { 2 };
            let wide = if value - number >= wide * L::N { wide } else { 1 };
            let mut row = 0;
            while row < rows {
                let many = (rows - row).min(4);
                unsafe {
                    let weights = weights.add(row * BLOCK);
                    let out = out.add(row * value + number);
                    let from = |cell| at(cell).add(number);
                    match (many, wide) {
                        (1, 1) => accumulate::<L, 1, 1, _>(weights, out, value, cells, from),
                        (1, 2) => accumulate::<L, 1, 2, _>(weights, out, value, cells, from),
                        (1, _) => accumulate::<L, 1, 4, _>(weights, out, value, cells, from),
                        (2, 1) => accumulate::<L, 2, 1, _>(weights, out, value, cells, from),
                        (2, 2) => accumulate::<L, 2, 2, _>(weights, out, value, cells, from),
                        (2, _) => accumulate::<L, 2, 4, _>(weights, out, value, cells, from),
                        (3, 1) => accumulate::<L, 3, 1, _>(weights, out, value, cells, from),
                        (3, 2) => accumulate::<L, 3, 2, _>(weights, out, value, cells, from),
                        (3, _) => accumulate::<L, 3, 4, _>(weights, out, value, cells, from),
                        (_, 1) => accumulate::<L, 4, 1, _>(weights, out, value, cells, from),
                        (_, 2) => accumulate::<L, 4, 2, _>(weights, out, value, cells, from),
                        (_, _) => accumulate::<L, 4, 4, _>(weights, out, value, cells, from),
                    }
                }
                row += many;
            }
            number += wide * L::N;
        }
    }

    /// Adds the weighted values of a block that was converted, but for rows that look at none of it.
    #[inline(always)]
    unsafe fn add_block<L: Lanes>(
        &mut self,
        rows: usize,
        group: usize,
        value: usize,
        seen: &[u32],
        n: usize,
    ) {
        let (weights, out) = (self.scores.as_ptr(), self.state.out.as_mut_ptr());
        let v = self.v.as_ptr();
        let mut row = 0;
        while row < rows {
            let many = if rows - row >= 4 { 4 } else { 1 };
            let tokens = row / group..=(row + many - 1) / group;
            let seen = &seen[tokens];
            if seen.iter().all(|seen| *seen == 0) {
                row += many;
                continue;
            }
            // Of a row that looks at none of it the scores were not made weights.
            let many = if seen.contains(&0) { 1 } else { many };
            if seen[0] == 0 {
                row += 1;
                continue;
            }
            let mut number = 0;
            while number < value {
                let wide = value - number >= 4 * L::N && L::N == 16;
                let two = value - number >= 2 * L::N;
                unsafe {
                    let (weights, v) = (weights.add(row * BLOCK), v.add(number));
                    let out = out.add(row * value + number);
                    match (many, wide, two) {
                        (4, true, _) => add_rows::<L, 4, 4>(weights, v, out, value, n),
                        (4, _, true) => add_rows::<L, 4, 2>(weights, v, out, value, n),
                        (4, _, false) => add_rows::<L, 4, 1>(weights, v, out, value, n),
                        (_, true, _) => add_rows::<L, 1, 4>(weights, v, out, value, n),
                        (_, _, true) => add_rows::<L, 1, 2>(weights, v, out, value, n),
                        (_, _, false) => add_rows::<L, 1, 1>(weights, v, out, value, n),
                    }
                }
                number += if wide {
                    4 * L::N
                } else if two {
                    2 * L::N
                } else {
                    L::N
                };
            }
            row += many;
        }
    }
}

/// Adds the weighted values of `n` cells to some numbers of some rows. Values and result have `value`
/// numbers a cell and a row.
#[inline(always)]
unsafe fn add_rows<L: Lanes, const ROWS: usize, const VECTORS: usize>(
    weights: *const f32,
    v: *const f32,
    out: *mut f32,
    value: usize,
    n: usize,
) {
    unsafe {
        let mut sums = [[L::zero(); VECTORS]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate() {
            for (at, sum) in sums.iter_mut().enumerate() {
                *sum = L::load(out.add(row * value + at * L::N));
            }
        }
        for cell in 0..n {
            let mut values = [L::zero(); VECTORS];
            for (at, values) in values.iter_mut().enumerate() {
                *values = L::load(v.add(cell * value + at * L::N));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let weight = L::splat(*weights.add(row * BLOCK + cell));
                for (values, sum) in values.iter().zip(sums) {
                    *sum = values.mul_add(weight, *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (at, sum) in sums.into_iter().enumerate() {
                sum.store(out.add(row * value + at * L::N));
            }
        }
    }
}

/// The same with values as they lie in the cache: `at` says where those of a cell begin.
#[inline(always)]
unsafe fn accumulate<
    L: Lanes,
    const ROWS: usize,
    const VECTORS: usize,
    F: Fn(u32) -> *const u16,
>(
    weights: *const f32,
    out: *mut f32,
    value: usize,
    cells: &[u32],
    at: F,
) {
    unsafe {
        let mut sums = [[L::zero(); VECTORS]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate() {
            for (at, sum) in sums.iter_mut().enumerate() {
                *sum = L::load(out.add(row * value + at * L::N));
            }
        }
        for (index, cell) in cells.iter().enumerate() {
            let from = at(*cell);
            let mut values = [L::zero(); VECTORS];
            for (at, values) in values.iter_mut().enumerate() {
                *values = L::load_f16(from.add(at * L::N));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let weight = L::splat(*weights.add(row * BLOCK + index));
                for (values, sum) in values.iter().zip(sums) {
                    *sum = values.mul_add(weight, *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (at, sum) in sums.into_iter().enumerate() {
                sum.store(out.add(row * value + at * L::N));
            }
        }
    }
}

impl State {
    fn begin(&mut self, rows: usize, value: usize) {
        self.largest.clear();
        self.largest.resize(rows, f32::NEG_INFINITY);
        self.sum.clear();
        self.sum.resize(rows, 0.0);
        self.out.clear();
        self.out.resize(rows * value, 0.0);
    }

    /// What a row has come to, relative to a larger score.
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

    /// Numbers that [`State::write`] writes.
    pub(crate) fn len(rows: usize, value: usize) -> usize {
        rows * (2 + value)
    }

    /// Writes it down, for [`State::join`].
    pub(crate) fn write(&self, to: &mut [f32]) {
        let rows = self.largest.len();
        to[..rows].copy_from_slice(&self.largest);
        to[rows..2 * rows].copy_from_slice(&self.sum);
        to[2 * rows..2 * rows + self.out.len()].copy_from_slice(&self.out);
    }

    /// Begins with nothing, and joins what others have come to over other cells, in order.
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
