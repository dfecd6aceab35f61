//! Attention over a cache whose cells many sequences share.
//!
//! In one forward pass each token looks at the cells of its own sequence, up to itself; a mask says
//! which these are. Going through all cells in use, for each token, head and layer, only to find
//! most of them masked, makes each sequence pay for the cells of all others. Here the mask is read
//! once in a forward pass, and each token's cells are looked at where they are.
//!
//! One [`Attention`] belongs to one context. A forward pass is [begun](Attention::begin) with what
//! its tokens have in common; then, for each layer, a [`Node`] is [prepared](Attention::prepare) by one
//! thread, and [computed](Attention::compute) by as many threads as there are, which share the work
//! between them. What comes out does not depend on how many they are.
//!
//! Knows nothing of llama.cpp: whoever calls it says where the numbers are. Numbers of the cache and
//! of the mask are 16-bit floats, all others 32-bit ones. Needs AVX2, FMA and F16C, and uses AVX-512
//! where there is any.

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

/// Which of the kernels this processor has.
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

/// The most threads that compute one node.
pub const MOST_THREADS: usize = 512;

/// Nodes that are prepared and not computed yet, at most: more than a model has layers.
const NODES: usize = 4096;

/// Where there are few tiles, each is computed in several parts of its cells, so that every thread
/// has something to do: at most so many, of at least [`LEAST_PART`] blocks each.
const PARTS: usize = 16;
const LEAST_PART: usize = 4;
/// So many tiles and heads are enough for all threads.
const ENOUGH: usize = 16;

/// The attention of one context.
#[derive(Debug)]
pub struct Attention {
    kernel: Kernel,
    /// Written between two computations, by the thread that prepares; read by those that compute.
    pass: UnsafeCell<Pass>,
    /// For each prepared node, which of its units is the next that nobody has begun.
    next: Box<[AtomicUsize]>,
    /// One for each thread.
    scratch: Box<[UnsafeCell<Scratch>]>,
    /// For each tile and head that is computed in parts: how many of them are done.
    done: Box<[AtomicUsize]>,
    /// What these parts have come to, side by side. Each is written by one thread, and read by the
    /// one that finds all done.
    parts: UnsafeCell<Vec<f32>>,
}

/// What the nodes of a forward pass have in common.
#[derive(Debug, Default)]
struct Pass {
    /// The tiles of the tokens that were announced.
    tiles: Vec<Range<usize>>,
    /// The masks so far: several where layers differ in their windows.
    masks: Vec<Mask>,
    /// Counts the graphs: where a pass is computed in several, a mask is another in each.
    graph: u64,
    /// The keys of the layers of this graph. One that comes again begins the next.
    layers: Vec<*const u8>,
    nodes: usize,
}

/// A mask, and the cells that it leaves.
#[derive(Debug)]
struct Mask {
    address: *const u8,
    graph: u64,
    tiles: Vec<Range<usize>>,
    /// The tokens of the largest tile.
    most_tokens: usize,
    cells: Masked,
}

/// The attention of one layer in a forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// Where the numbers are.
    pub tensors: Tensors,
    /// How many tokens.
    pub tokens: usize,
    /// How many heads the cache has.
    pub heads: usize,
    /// Cells up to the last in use.
    pub cells: usize,
    /// 16-bit floats, one for each token and cell: zero where the token looks at the cell, else
    /// minus infinity.
    pub mask: *const u8,
    /// From one token's to the next one's, in bytes.
    pub mask_token: usize,
}

/// A node that is ready to be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    /// Of the counters.
    pub slot: u32,
    /// Of the masks.
    pub mask: u32,
}

impl Attention {
    /// `None` where the processor has none of the kernels.
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

    /// A forward pass is about to begin, of tokens of these kins, in this order. Tokens of one
    /// sequence are kin, and so are those of sequences that have a prefix in common: what they look
    /// at together is read once for all that lie side by side. What is said here makes it fast: the
    /// mask alone decides what comes out.
    pub fn begin(&mut self, kin: &[u32]) {
        let pass = self.pass.get_mut();
        pass.tiles = tiles::tiles(kin);
        pass.masks.clear();
        pass.layers.clear();
        pass.graph += 1;
    }

    /// Makes a node ready to be computed. It may be prepared again, to be computed again.
    ///
    /// # Safety
    /// Nobody prepares or computes a node of this attention meanwhile.
    pub unsafe fn prepare(&self, node: &Node) -> Prepared {
        // SAFETY: the caller's promise: this thread alone is here.
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
                // Not what was announced: each token is looked at alone.
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

    /// Computes a part of a node, as `thread`. When all threads have returned the whole node is
    /// computed.
    ///
    /// # Safety
    /// The node was prepared as `prepared` and not computed since, and nothing is prepared meanwhile.
    /// Its pointers and strides are those of tensors with all its tokens, heads and cells, and nobody
    /// else writes to them. No two threads are there with one number, and none beyond
    /// [`MOST_THREADS`].
    pub unsafe fn compute(&self, node: &Node, prepared: Prepared, thread: usize) {
        // SAFETY: this number is this thread's alone; the processor has the kernel (`detect`).
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

    /// Computes units of a node until none is left: a tile and a head of the cache each, or a part
    /// of its cells.
    ///
    /// # Safety
    /// See [`Attention::compute`]; and inlined where the features of `L` are enabled.
    #[inline(always)]
    unsafe fn run<L: Lanes>(&self, node: &Node, prepared: Prepared, scratch: &mut Scratch) {
        // SAFETY: nobody prepares while a node is computed.
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
            // SAFETY: the mask has a row for each token, and is the same for all nodes with it.
            let cells =
                unsafe { masked.of(place, tile.clone(), node.mask, node.mask_token, node.cells) };
            let blocks = cells.blocks();
            let size = blocks.div_ceil(PARTS).max(LEAST_PART);
            let parts = if most_parts > 1 { blocks.div_ceil(size).max(1) } else { 1 };
            if part >= parts {
                continue;
            }
            if parts == 1 {
                // SAFETY: these tokens and cells are there, and no other unit writes these rows.
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
            // SAFETY: `prepare` made room for all parts of all groups; this one is this unit's.
            let all = unsafe { (*self.parts.get()).as_mut_ptr() };
            let most = node.state(*most_tokens);
            let at = |part: usize| unsafe { all.add((group * PARTS + part) * most) };
            scratch.state.write(unsafe { std::slice::from_raw_parts_mut(at(part), length) });
            if self.done[group].fetch_add(1, Ordering::AcqRel) + 1 < parts {
                continue;
            }
            self.done[group].store(0, Ordering::Relaxed);
            // SAFETY: all parts are written, and what their threads wrote is seen (`AcqRel`).
            unsafe {
                let parts = (0..parts).map(|part| std::slice::from_raw_parts(at(part), length));
                scratch.state.join::<L>(n, tensors.value, parts);
                tensors.finish::<L>(rows, &scratch.state);
            }
        }
    }
}

impl Node {
    /// Numbers of what the rows of so many tokens come to.
    fn state(&self, tokens: usize) -> usize {
        State::len(tokens * self.tensors.group, self.tensors.value)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn with_avx2(own: &Attention, node: &Node, prepared: Prepared, scratch: &mut Scratch) {
    // SAFETY: the caller's promise, and the features are enabled here.
    unsafe { own.run::<Avx2>(node, prepared, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
unsafe fn with_avx512(own: &Attention, node: &Node, prepared: Prepared, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { own.run::<Avx512>(node, prepared, scratch) }
}
