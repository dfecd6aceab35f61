//! Attention over a KV cache whose cells many sequences share.
//!
//! In a forward pass each token attends to the cells of its own sequence up to its own position; a
//! mask says which those are. Visiting every cell in use, for each token, head and layer, only to
//! find most of them masked, makes each sequence pay for the cells of all others. This crate reads
//! the mask once per forward pass and then visits only the cells that each token attends to.
//!
//! One [`Attention`] belongs to one context. [`Attention::begin`] starts a forward pass with what
//! its tokens have in common. Then, for each layer, one thread [prepares](Attention::prepare) a
//! [`Node`] and any number of threads [compute](Attention::compute) it, sharing the work. The
//! result does not depend on the number of threads.
//!
//! The crate knows nothing of llama.cpp, starts no thread and depends on no other crate: its caller
//! says where the numbers are, and brings the threads. The cache and the mask hold 16-bit floats;
//! everything else is 32-bit. It needs AVX2, FMA and F16C, and uses AVX-512 if available.
//!
//! `tests.rs` compares the kernels with the formula, in `f64`. Whether a model still answers as
//! before is tested in the engine's crate (`tests/llama`), and by the engine's self-test.

#![expect(
    unsafe_code,
    reason = "kernels work on memory of others; each function says what it needs"
)]

mod kernel;
mod lanes;
mod state;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
mod tiles;
mod values;

use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use kernel::Tensors;
use kernel::{Rows, Scratch};
use lanes::Lanes;
#[cfg(target_arch = "x86_64")]
use lanes::{Avx2, Avx512};
use state::State;
use tiles::{BLOCK, Masked};

/// A kernel, by the instruction set it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Kernel {
    fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 && is_x86_feature_detected!("avx512f") {
                return Some(Self::Avx512);
            }
            if avx2 {
                return Some(Self::Avx2);
            }
        }
        None
    }
}

/// The maximum number of threads that compute one node: ggml's `GGML_MAX_N_THREADS`.
pub const MOST_THREADS: usize = 512;

/// The maximum number of nodes prepared but not yet computed: more than a model has layers.
const NODES: usize = 4096;

/// With few groups (a tile and a KV head each), the cells of each are split into up to `PARTS`
/// parts of at least [`LEAST_PART`] blocks, so that every thread has work.
const PARTS: usize = 16;
const LEAST_PART: usize = 4;
/// From this many groups on, every thread has work without splitting.
const ENOUGH: usize = 16;

/// The attention of one context.
#[derive(Debug)]
pub struct Attention {
    kernel: Kernel,
    /// Written by the thread that prepares, between two computations; read by the threads that
    /// compute.
    pass: UnsafeCell<Pass>,
    /// For each prepared node, the next unit that no thread has claimed.
    next: Box<[AtomicUsize]>,
    /// One for each thread.
    scratch: Box<[UnsafeCell<Scratch>]>,
    /// For each group that is computed in parts, how many of them are done.
    done: Box<[AtomicUsize]>,
    /// The partial states of those groups, side by side. Each is written by one thread and read by
    /// the thread that finishes the group's last part.
    parts: UnsafeCell<Vec<f32>>,
}

/// What the nodes of a forward pass share.
#[derive(Debug, Default)]
struct Pass {
    /// The tiles of the tokens announced by [`Attention::begin`].
    tiles: Vec<Range<usize>>,
    /// The masks seen so far: more than one if layers have different windows.
    masks: Vec<Mask>,
    /// Counts graphs. A forward pass may run as several graphs, and the mask at one address then
    /// differs from graph to graph.
    graph: u64,
    /// The key tensors of this graph's layers. Seeing one again means that the next graph has
    /// begun.
    layers: Vec<*const u8>,
    nodes: usize,
}

/// A mask, and the cells that it leaves visible.
#[derive(Debug)]
struct Mask {
    address: *const u8,
    graph: u64,
    tiles: Vec<Range<usize>>,
    /// The number of tokens in the largest tile.
    most_tokens: usize,
    cells: Masked,
}

/// The attention of one layer in a forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// Where the numbers are.
    pub tensors: Tensors,
    /// The number of tokens.
    pub tokens: usize,
    /// The number of KV heads.
    pub heads: usize,
    /// The number of cells up to the last one in use.
    pub cells: usize,
    /// One 16-bit float for each token and cell: zero if the token attends to the cell, else minus
    /// infinity.
    pub mask: *const u8,
    /// Stride from one token's row to the next, in bytes.
    pub mask_token: usize,
}

/// A node that is ready to be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    /// Index of the node's counter.
    pub slot: u32,
    /// Index of the node's mask.
    pub mask: u32,
}

impl Attention {
    /// Creates the attention of one context, or returns `None` if the processor supports none of
    /// the kernels.
    pub fn new() -> Option<Self> {
        Some(Self {
            kernel: Kernel::detect()?,
            pass: UnsafeCell::default(),
            next: (0..NODES).map(|_| AtomicUsize::new(0)).collect(),
            scratch: (0..MOST_THREADS).map(|_| UnsafeCell::default()).collect(),
            done: (0..ENOUGH).map(|_| AtomicUsize::new(0)).collect(),
            parts: UnsafeCell::default(),
        })
    }

    /// Begins a forward pass. `kin` has one number per token, in batch order: tokens of one
    /// sequence, or of sequences that share a prefix, have the same number.
    ///
    /// Neighbors with the same number are computed together, and the cells they share are read
    /// once. This is only a hint for speed: the mask alone decides the result.
    pub fn begin(&mut self, kin: &[u32]) {
        let pass = self.pass.get_mut();
        pass.tiles = tiles::tiles(kin);
        pass.masks.clear();
        pass.layers.clear();
        pass.graph += 1;
    }

    /// Makes a node ready to be computed. To compute a node again, prepare it again.
    ///
    /// # Safety
    /// No other thread prepares or computes a node of this attention meanwhile.
    pub unsafe fn prepare(&self, node: &Node) -> Prepared {
        // SAFETY: by the caller's promise, no other thread is here.
        let (pass, parts) = unsafe { (&mut *self.pass.get(), &mut *self.parts.get()) };
        if pass.layers.contains(&node.tensors.k) {
            pass.layers.clear();
            pass.graph += 1;
        }
        pass.layers.push(node.tensors.k);
        let (address, graph) = (node.mask, pass.graph);
        let known = pass.masks.iter().position(|it| (it.address, it.graph) == (address, graph));
        let mask = known.unwrap_or_else(|| {
            let tiles = match pass.tiles.last() {
                Some(tile) if tile.end == node.tokens => pass.tiles.clone(),
                // Not the announced tokens: each token is a tile of its own.
                _ => (0..node.tokens).map(|token| token..token + 1).collect(),
            };
            let most_tokens = tiles.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
            let cells = Masked::new(tiles.len());
            pass.masks.push(Mask { address, graph, tiles, most_tokens, cells });
            pass.masks.len() - 1
        });
        let slot = pass.nodes % NODES;
        pass.nodes += 1;
        self.next[slot].store(0, Ordering::Relaxed);
        let Mask { tiles, most_tokens, .. } = &pass.masks[mask];
        let groups = tiles.len() * node.heads;
        if groups < ENOUGH {
            let needed = groups * PARTS * node.state(*most_tokens);
            if parts.len() < needed {
                parts.resize(needed, 0.0);
            }
        }
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Prepared { slot: number(slot), mask: number(mask) }
    }

    /// Computes part of a node, as thread number `thread`. The node is complete when all threads
    /// have returned.
    ///
    /// # Safety
    /// The node was prepared as `prepared` and has not been computed since, and nothing is prepared
    /// meanwhile. Its pointers and strides describe tensors with all its tokens, heads and cells,
    /// which nothing else writes to. Concurrent calls have different thread numbers, all below
    /// [`MOST_THREADS`].
    pub unsafe fn compute(&self, node: &Node, prepared: Prepared, thread: usize) {
        // SAFETY: no other thread has this number, and `detect` found the kernel's instructions.
        unsafe {
            let scratch = &mut *self.scratch[thread].get();
            match self.kernel {
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx2 => with_avx2(self, node, prepared, scratch),
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx512 => with_avx512(self, node, prepared, scratch),
            }
        }
    }

    /// Computes units of a node until none is left. A unit is a tile and a KV head, or a part of
    /// their cells.
    ///
    /// # Safety
    /// See [`Attention::compute`]. Must be inlined into a function that enables the features of
    /// `L`.
    #[inline(always)]
    unsafe fn run<L: Lanes>(&self, node: &Node, prepared: Prepared, scratch: &mut Scratch) {
        // SAFETY: nothing is prepared while a node is computed.
        let pass = unsafe { &*self.pass.get() };
        let tensors = &node.tensors;
        let Mask { tiles, most_tokens, cells: masked, .. } = &pass.masks[prepared.mask as usize];
        let groups = tiles.len() * node.heads;
        let most_parts = match groups < ENOUGH {
            true => node.cells.div_ceil(BLOCK * LEAST_PART).clamp(1, PARTS),
            false => 1,
        };
        let next = &self.next[prepared.slot as usize];
        loop {
            let unit = next.fetch_add(1, Ordering::Relaxed);
            if unit >= groups * most_parts {
                return;
            }
            let (part, group) = (unit / groups, unit % groups);
            let (head, place) = (group / tiles.len(), group % tiles.len());
            let tile = &tiles[place];
            let rows = Rows { token: tile.start, tokens: tile.len(), head };
            // SAFETY: the mask has a row for each token, and all nodes with this index have the
            // same mask.
            let cells =
                unsafe { masked.of(place, tile.clone(), node.mask, node.mask_token, node.cells) };
            let blocks = cells.blocks();
            let size = blocks.div_ceil(PARTS).max(LEAST_PART);
            let parts = if most_parts > 1 { blocks.div_ceil(size).max(1) } else { 1 };
            if part >= parts {
                continue;
            }
            if parts == 1 {
                // SAFETY: these tokens and cells exist, and no other unit writes these rows.
                unsafe {
                    tensors.attend::<L>(rows, cells, 0..blocks, scratch);
                    tensors.finish::<L>(rows, &scratch.state);
                }
                continue;
            }
            let own = part * size..blocks.min((part + 1) * size);
            // SAFETY: as above.
            unsafe { tensors.attend::<L>(rows, cells, own, scratch) };
            let n = rows.tokens * tensors.group;
            let length = node.state(rows.tokens);
            // SAFETY: `prepare` made room for all parts of all groups, and only this unit writes
            // this one.
            let all = unsafe { (*self.parts.get()).as_mut_ptr() };
            let most = node.state(*most_tokens);
            let at = |part: usize| unsafe { all.add((group * PARTS + part) * most) };
            scratch.state.write(unsafe { std::slice::from_raw_parts_mut(at(part), length) });
            if self.done[group].fetch_add(1, Ordering::AcqRel) + 1 < parts {
                continue;
            }
            self.done[group].store(0, Ordering::Relaxed);
            // SAFETY: all parts are written, and `AcqRel` makes the other threads' writes visible.
            unsafe {
                let parts = (0..parts).map(|part| std::slice::from_raw_parts(at(part), length));
                scratch.state.join::<L>(n, tensors.value, parts);
                tensors.finish::<L>(rows, &scratch.state);
            }
        }
    }
}

impl Node {
    /// The length of the state of `tokens` tokens and one KV head, in floats.
    fn state(&self, tokens: usize) -> usize {
        State::len(tokens * self.tensors.group, self.tensors.value)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn with_avx2(own: &Attention, node: &Node, prepared: Prepared, scratch: &mut Scratch) {
    // SAFETY: by the caller's promise; the features are enabled here.
    unsafe { own.run::<Avx2>(node, prepared, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
unsafe fn with_avx512(own: &Attention, node: &Node, prepared: Prepared, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { own.run::<Avx512>(node, prepared, scratch) }
}
