use super::*;

/// Tensors that own their numbers, laid out as in llama.cpp.
struct Case {
    tokens: usize,
    cells: usize,
    heads: usize,
    group: usize,
    key: usize,
    q: Vec<f32>,
    k: Vec<u16>,
    v: Vec<u16>,
    mask: Vec<u16>,
    out: Vec<f32>,
}

const DROP: u16 = 0xfc00;

/// Shares a value between threads, each of which keeps to its own part.
struct Shared<T>(T);

// SAFETY: see `Attention::compute`.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn get(&self) -> &T {
        &self.0
    }
}

/// Converts to a 16-bit float, truncating: a number too small for a normal one becomes zero, and
/// NaN stays NaN.
fn f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let exponent = (bits >> 23 & 0xff) as i32 - 127 + 15;
    match value {
        _ if value.is_nan() => 0x7e00,
        _ if exponent <= 0 => sign,
        _ => sign | (exponent as u16) << 10 | (bits >> 13 & 0x3ff) as u16,
    }
}

fn f32_of(value: u16) -> f32 {
    let part = f32::from(value & 0x3ff) / 1024.0;
    let exponent = i32::from(value >> 10 & 0x1f);
    let size = if exponent == 0 { 0.0 } else { (1.0 + part) * 2.0_f32.powi(exponent - 15) };
    if value & 0x8000 == 0 { size } else { -size }
}

impl Case {
    /// Fills the tensors with numbers between -2 and 2. `sees` says which token attends to which
    /// cell.
    fn new(
        [tokens, cells, heads, group, key]: [usize; 5],
        sees: impl Fn(usize, usize) -> bool,
    ) -> Self {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut number = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 40) as f32 / (1 << 22) as f32 - 2.0
        };
        let q = (0..tokens * heads * group * key).map(|_| number()).collect();
        let mut halves = || (0..cells * heads * key).map(|_| f16(number())).collect();
        let (k, v) = (halves(), halves());
        let mask = (0..tokens * cells)
            .map(|at| if sees(at / cells, at % cells) { 0 } else { DROP })
            .collect();
        let out = vec![f32::NAN; tokens * heads * group * key];
        Self { tokens, cells, heads, group, key, q, k, v, mask, out }
    }

    /// Computes the case on `threads` threads.
    fn compute(&mut self, attention: &mut Attention, threads: usize, kin: &[u32]) {
        let (row, cell) = (self.heads * self.group * self.key * 4, self.heads * self.key * 2);
        let tensors = Tensors {
            q: self.q.as_ptr().cast(),
            q_token: row,
            q_head: self.key * 4,
            k: self.k.as_ptr().cast(),
            k_cell: cell,
            k_head: self.key * 2,
            v: self.v.as_ptr().cast(),
            v_cell: cell,
            v_head: self.key * 2,
            out: self.out.as_mut_ptr().cast(),
            out_token: row,
            out_head: self.key * 4,
            key: self.key,
            value: self.key,
            group: self.group,
            scale: self.scale(),
        };
        let node = Shared(Node {
            tensors,
            tokens: self.tokens,
            heads: self.heads,
            cells: self.cells,
            mask: self.mask.as_ptr().cast(),
            mask_token: self.cells * 2,
        });
        attention.begin(kin);
        let attention = Shared(&*attention);
        // SAFETY: nothing computes yet.
        let prepared = unsafe { attention.0.prepare(&node.0) };
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (node, attention) = (&node, &attention);
                // SAFETY: the tensors match the node, and each thread has its own number.
                scope.spawn(move || unsafe {
                    attention.get().compute(node.get(), prepared, thread)
                });
            }
        });
    }

    fn scale(&self) -> f32 {
        1.0 / (self.key as f32).sqrt()
    }

    /// The expected result, by the formula.
    fn expected(&self) -> Vec<f64> {
        let mut out = Vec::new();
        for row in 0..self.tokens * self.heads * self.group {
            let (token, head) =
                (row / (self.heads * self.group), row % (self.heads * self.group) / self.group);
            let q = &self.q[row * self.key..(row + 1) * self.key];
            let half = |of: &[u16], cell: usize, at: usize| {
                f64::from(f32_of(of[(cell * self.heads + head) * self.key + at]))
            };
            let seen: Vec<usize> =
                (0..self.cells).filter(|cell| self.mask[token * self.cells + cell] == 0).collect();
            let score = |cell: &usize| -> f64 {
                let dot =
                    q.iter().enumerate().map(|(at, q)| f64::from(*q) * half(&self.k, *cell, at));
                dot.sum::<f64>() * f64::from(self.scale())
            };
            let scores: Vec<f64> = seen.iter().map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for at in 0..self.key {
                let value = seen.iter().zip(&weights).map(|(cell, w)| w * half(&self.v, *cell, at));
                out.push(if sum == 0.0 { 0.0 } else { value.sum::<f64>() / sum });
            }
        }
        out
    }

    fn check(&mut self, attention: &mut Attention, kin: &[u32]) {
        let expected = self.expected();
        for threads in [1, 2, 3] {
            self.out.fill(f32::NAN);
            self.compute(attention, threads, kin);
            for (at, (out, expected)) in self.out.iter().zip(&expected).enumerate() {
                let off = (f64::from(*out) - expected).abs();
                assert!(off < 2e-5, "number {at}: {out} instead of {expected}, {threads} threads");
            }
        }
    }
}

/// Every kernel that this processor supports.
fn kernels() -> Vec<Attention> {
    let Some(best) = Attention::new() else { return Vec::new() };
    let mut kernels = vec![best];
    if kernels[0].kernel == Kernel::Avx512 {
        let mut other = Attention::new().expect("there is one");
        other.kernel = Kernel::Avx2;
        kernels.push(other);
    }
    kernels
}

/// A causal mask for tokens that follow `first` cells.
fn causal(first: usize) -> impl Fn(usize, usize) -> bool {
    move |token, cell| cell <= first + token
}

#[test]
fn one_token_alone() {
    for mut attention in kernels() {
        for cells in [1, 31, 32, 33, 256, 700] {
            for (heads, group, key) in [(3, 3, 64), (1, 4, 256), (2, 1, 80), (2, 5, 16)] {
                let mut case = Case::new([1, cells, heads, group, key], |_, _| true);
                case.check(&mut attention, &[0]);
            }
        }
    }
}

#[test]
fn a_prompt_in_one_piece_and_behind_another() {
    for mut attention in kernels() {
        // Including block boundaries between two tokens, with few tokens and many.
        for (tokens, first) in
            [(2, 0), (2, 31), (4, 30), (5, 7), (9, 60), (63, 0), (64, 100), (130, 3)]
        {
            for (heads, group, key) in [(1, 3, 64), (1, 1, 48), (2, 2, 32)] {
                let sizes = [tokens, first + tokens, heads, group, key];
                let mut case = Case::new(sizes, causal(first));
                case.check(&mut attention, &vec![5; tokens]);
            }
        }
    }
}

#[test]
fn sequences_side_by_side_look_at_their_own_cells() {
    // Interleaved cells, as decoding leaves them. The last two tokens belong to one sequence.
    let sequences: Vec<u32> = (0..20).chain([20, 20]).collect();
    let seq = |token: usize| token.min(20);
    for mut attention in kernels() {
        let mut case = Case::new([22, 21 * 9, 2, 3, 64], |token, cell| {
            cell % 21 == seq(token) && (token != 20 || cell < 21 * 8)
        });
        case.check(&mut attention, &sequences);
    }
}

#[test]
fn sequences_behind_one_prefix_look_at_it_together() {
    // A prefix of 100 cells, then interleaved cells of 37 sequences; the last has three tokens.
    let seq = |token: usize| token.min(36);
    let sees = |token: usize, cell: usize| {
        cell < 100 || (cell % 37 == seq(token) && cell / 37 < 20 + token.saturating_sub(36))
    };
    for mut attention in kernels() {
        for (heads, group, key) in [(3, 3, 64), (1, 4, 32), (9, 1, 64)] {
            let mut case = Case::new([39, 900, heads, group, key], sees);
            case.check(&mut attention, &[7; 39]);
        }
    }
}

#[test]
fn strangers_that_were_said_to_be_kin_are_computed_all_the_same() {
    for mut attention in kernels() {
        let mut case =
            Case::new([9, 600, 2, 3, 64], |token, cell| cell / 60 == token || cell == 599 - token);
        case.check(&mut attention, &[1; 9]);
    }
}

#[test]
fn tiles_of_other_sizes_are_computed_in_parts_side_by_side() {
    // One sequence of nine tokens and two of one token, over 600 cells each.
    let sequences: Vec<u32> = [vec![0; 9], vec![1, 2]].concat();
    for mut attention in kernels() {
        let sizes = [11, 1800, 1, 4, 64];
        let mut case = Case::new(sizes, |token, cell| cell / 600 == token.saturating_sub(8));
        for _ in 0..20 {
            case.check(&mut attention, &sequences);
        }
    }
}

#[test]
fn a_window_leaves_the_first_cells_out() {
    for mut attention in kernels() {
        let mut case = Case::new([70, 300, 1, 4, 64], |token, cell| {
            cell <= 200 + token && cell + 40 > 200 + token
        });
        case.check(&mut attention, &vec![0; 70]);
    }
}

#[test]
fn a_batch_that_was_cut_is_computed_all_the_same() {
    for mut attention in kernels() {
        let mut case = Case::new([6, 40, 1, 3, 64], causal(30));
        case.check(&mut attention, &[0; 9]);
    }
}

#[test]
fn what_is_no_number_stays_so() {
    for mut attention in kernels() {
        let mut case = Case::new([1, 40, 1, 3, 64], |_, _| true);
        case.k[70] = f16(f32::NAN);
        case.compute(&mut attention, 1, &[0]);
        assert!(case.out.iter().all(|out| out.is_nan()), "{:?}", &case.out[..4]);
    }
}
