//! Replaces llama.cpp's attention with [`threadrunner_attention`].
//!
//! llama.cpp builds the graph of a forward pass and has no hook for another attention. But ggml
//! shows each node of a graph to a callback before computing it. There an attention node becomes a
//! custom operation with a function of ours, which ggml calls on each of its threads like any other
//! operation. Attention with features unknown here (other types, ALiBi, soft caps, sinks, several
//! streams) stays llama.cpp's.
//!
//! See `docs/adr/0011-attention-of-our-own.md`.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};

use llama_cpp_sys_2 as sys;
use threadrunner_attention::{MOST_THREADS, Node, Prepared, Tensors};

use super::reclaim::Resident;

/// The attention of one context. It must not move in memory: llama.cpp holds its address.
#[derive(Debug)]
pub(super) struct Attention {
    own: threadrunner_attention::Attention,
    /// Whether the next forward pass uses this attention instead of llama.cpp's.
    used: bool,
    /// Which cells of the cache have memory. Only the thread that is shown nodes accesses it.
    resident: RefCell<Resident>,
}

/// ggml's `GGML_N_TASKS_MAX`: run the operation on all threads.
const ALL_THREADS: i32 = -1;

// A node has 16 parameters. For a custom operation, ggml reads the first six
// (`ggml_custom_op_params`): a function, a number of threads, a pointer.
const FUNCTION: usize = 0;
const THREADS: usize = 2;
const POINTER: usize = 4;
// The fields of [`Prepared`].
const SLOT: usize = 6;
const MASK: usize = 7;
/// From here on, the first six parameters set by llama.cpp are kept: the scale, the ALiBi bias, the
/// soft cap, and others.
const THEIRS: usize = 8;
const KEPT: usize = 6;

impl Attention {
    /// Creates the attention, or returns `None` if the processor supports no kernel.
    pub(super) fn new() -> Option<Box<Self>> {
        let own = threadrunner_attention::Attention::new()?;
        Some(Box::new(Self { own, used: true, resident: RefCell::default() }))
    }

    /// Registers this as the callback of a new context. It must outlive the context.
    pub(super) fn install(&self, params: &mut sys::llama_context_params) {
        params.cb_eval = Some(take_over);
        params.cb_eval_user_data = std::ptr::from_ref(self).cast_mut().cast();
    }

    /// Begins a forward pass that uses this attention; see
    /// [`threadrunner_attention::Attention::begin`].
    pub(super) fn begin(&mut self, kin: &[u32]) {
        self.used = true;
        self.own.begin(kin);
    }

    /// Keeps the memory of the cells that a node reads.
    ///
    /// # Safety
    /// The node's sources are alive, and nothing computes.
    unsafe fn keep_cells(&self, node: &sys::ggml_tensor) {
        for source in [node.src[1], node.src[2]] {
            // SAFETY: null, or alive by the caller's promise. Attention is installed only in CPU
            // contexts, whose cache is in memory.
            unsafe {
                let Some(view) = source.as_ref() else { continue };
                let cells = usize::try_from(view.ne[1]).unwrap_or(0);
                self.resident.borrow_mut().keep_first(view, cells);
            }
        }
    }

    /// Begins a forward pass that uses llama.cpp's attention.
    pub(super) fn stand_aside(&mut self) {
        self.used = false;
    }
}

/// The callback to which ggml shows a node before computing it. It never asks to see the result.
unsafe extern "C" fn take_over(
    node: *mut sys::ggml_tensor,
    before: bool,
    attention: *mut c_void,
) -> bool {
    if !before {
        return true;
    }
    // SAFETY: the node is alive and nothing computes; `attention` is what `install` passed.
    let (node, attention) = unsafe { (&mut *node, &*attention.cast::<Attention>()) };
    let taken = is_ours(node);
    if taken || node.op == sys::GGML_OP_FLASH_ATTN_EXT {
        // SAFETY: the sources live as long as the node, and nothing computes.
        unsafe { attention.keep_cells(node) };
    }
    if taken && !attention.used {
        node.op_params.copy_within(THEIRS..THEIRS + KEPT, 0);
        node.op_params[KEPT..].fill(0);
        node.op = sys::GGML_OP_FLASH_ATTN_EXT;
    } else if attention.used && !taken {
        // SAFETY: the sources live as long as the node.
        if node.op != sys::GGML_OP_FLASH_ATTN_EXT || !unsafe { is_known(node) } {
            return false;
        }
        node.op_params.copy_within(0..KEPT, THEIRS);
        node.op_params[FUNCTION..THREADS].copy_from_slice(&words(compute as *const () as usize));
        node.op_params[THREADS] = ALL_THREADS;
        let own = words(std::ptr::from_ref(attention) as usize);
        node.op_params[POINTER..SLOT].copy_from_slice(&own);
        node.op = sys::GGML_OP_CUSTOM;
    }
    if attention.used && is_ours(node) {
        // SAFETY: nothing computes while nodes are shown, and the sources are alive.
        let prepared = unsafe { attention.own.prepare(&described(node)) };
        node.op_params[SLOT] = prepared.slot.cast_signed();
        node.op_params[MASK] = prepared.mask.cast_signed();
    }
    false
}

/// The custom operation: ggml calls it on each of its threads to compute a node.
unsafe extern "C" fn compute(
    node: *mut sys::ggml_tensor,
    thread: c_int,
    _threads: c_int,
    attention: *mut c_void,
) {
    // SAFETY: the node was prepared when it was shown, and none is shown while one is computed.
    // ggml numbers its threads, and the options limit how many there are.
    unsafe {
        let (node, attention) = (&*node, &*attention.cast::<Attention>());
        let prepared = Prepared {
            slot: node.op_params[SLOT].cast_unsigned(),
            mask: node.op_params[MASK].cast_unsigned(),
        };
        debug_assert!((thread as usize) < MOST_THREADS);
        attention.own.compute(&described(node), prepared, thread as usize);
    }
}

/// An address as two parameters.
fn words(address: usize) -> [i32; 2] {
    let bytes = (address as u64).to_ne_bytes();
    let word =
        |at: usize| i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [word(0), word(4)]
}

fn is_ours(node: &sys::ggml_tensor) -> bool {
    node.op == sys::GGML_OP_CUSTOM
        && node.op_params[FUNCTION..THREADS] == words(compute as *const () as usize)
}

/// Whether a node is an attention that this module can take over.
///
/// # Safety
/// The sources are alive.
unsafe fn is_known(node: &sys::ggml_tensor) -> bool {
    let [q, k, v, mask, sinks] = [0, 1, 2, 3, 4].map(|at| node.src[at]);
    if q.is_null() || k.is_null() || v.is_null() || mask.is_null() || !sinks.is_null() {
        return false;
    }
    // SAFETY: not null, and alive by the caller's promise.
    let (q, k, v, mask) = unsafe { (&*q, &*k, &*v, &*mask) };
    let float = |at: usize| f32::from_bits(node.op_params[at].cast_unsigned());
    let (bias, cap) = (float(1), float(2));
    let half = [k, v, mask].iter().all(|it| it.type_ == sys::GGML_TYPE_F16 && it.nb[0] == 2);
    let whole = [q, node].iter().all(|it| it.type_ == sys::GGML_TYPE_F32 && it.nb[0] == 4);
    let (key, value) = (q.ne[0], v.ne[0]);
    let sizes = k.ne[0] == key
        && key % 16 == 0
        && value % 16 == 0
        && k.ne[1] == v.ne[1]
        && mask.ne[0] >= k.ne[1]
        && mask.ne[1] >= q.ne[1]
        && k.ne[2] == v.ne[2]
        && k.ne[2] > 0
        && q.ne[2] % k.ne[2] == 0;
    let result = node.ne[0] == value && node.ne[1] == q.ne[2] && node.ne[2] == q.ne[1];
    let one_stream =
        [q.ne[3], k.ne[3], v.ne[3], mask.ne[2], mask.ne[3], node.ne[3]].iter().all(|n| *n == 1);
    half && whole && sizes && result && one_stream && bias == 0.0 && cap == 0.0
}

/// Describes a node for [`threadrunner_attention`].
///
/// # Safety
/// [`is_known`] holds for it, and its sources are alive.
unsafe fn described(node: &sys::ggml_tensor) -> Node {
    // SAFETY: none of them is null.
    let (q, k, v, mask) = unsafe { (&*node.src[0], &*node.src[1], &*node.src[2], &*node.src[3]) };
    let scale = f32::from_bits(node.op_params[THEIRS].cast_unsigned());
    let tensors = Tensors {
        q: q.data.cast::<u8>().cast_const(),
        q_token: q.nb[1],
        q_head: q.nb[2],
        k: k.data.cast::<u8>().cast_const(),
        k_cell: k.nb[1],
        k_head: k.nb[2],
        v: v.data.cast::<u8>().cast_const(),
        v_cell: v.nb[1],
        v_head: v.nb[2],
        out: node.data.cast(),
        out_token: node.nb[2],
        out_head: node.nb[1],
        key: q.ne[0] as usize,
        value: v.ne[0] as usize,
        group: (q.ne[2] / k.ne[2]) as usize,
        scale,
    };
    Node {
        tensors,
        tokens: q.ne[1] as usize,
        heads: k.ne[2] as usize,
        cells: k.ne[1] as usize,
        mask: mask.data.cast::<u8>().cast_const(),
        mask_token: mask.nb[1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A contiguous tensor of this shape, without data.
    fn tensor(type_: sys::ggml_type, size: usize, ne: [i64; 4]) -> sys::ggml_tensor {
        // SAFETY: zeros and null pointers are an empty tensor.
        let mut tensor: sys::ggml_tensor = unsafe { std::mem::zeroed() };
        (tensor.type_, tensor.ne, tensor.nb[0]) = (type_, ne, size);
        for at in 1..4 {
            tensor.nb[at] = tensor.nb[at - 1] * ne[at - 1] as usize;
        }
        tensor
    }

    #[test]
    fn a_node_is_taken_over_and_given_back_as_it_was() {
        let Some(mut attention) = Attention::new() else { return };
        let (half, whole) = (sys::GGML_TYPE_F16, sys::GGML_TYPE_F32);
        let mut q = tensor(whole, 4, [64, 2, 9, 1]);
        let mut k = tensor(half, 2, [64, 256, 3, 1]);
        let mut v = tensor(half, 2, [64, 256, 3, 1]);
        let mut mask = tensor(half, 2, [256, 2, 1, 1]);
        let mut node = tensor(whole, 4, [64, 9, 2, 1]);
        node.op = sys::GGML_OP_FLASH_ATTN_EXT;
        let theirs = [0.125_f32.to_bits().cast_signed(), 0, 0, 10, 256, 0];
        node.op_params[..KEPT].copy_from_slice(&theirs);
        node.src[..4].copy_from_slice(&[&raw mut q, &raw mut k, &raw mut v, &raw mut mask]);
        let before = node;
        let show = |node: &mut sys::ggml_tensor, attention: &mut Attention, used: bool| {
            if used {
                attention.begin(&[0, 0])
            } else {
                attention.stand_aside()
            }
            // SAFETY: the node and its sources are alive, and nothing computes.
            unsafe { take_over(node, true, std::ptr::from_mut(attention).cast()) }
        };
        for _ in 0..2 {
            assert!(!show(&mut node, &mut attention, true));
            assert_eq!(node.op, sys::GGML_OP_CUSTOM);
            // SAFETY: as above.
            assert_eq!(unsafe { described(&node) }.tensors.scale, 0.125);
            assert!(!show(&mut node, &mut attention, true));
            assert_eq!(node.op, sys::GGML_OP_CUSTOM);
            assert!(!show(&mut node, &mut attention, false));
            assert_eq!((node.op, node.op_params), (before.op, before.op_params));
        }
        // Heads of 24 numbers, a soft cap and keys of another type are left alone.
        type Change = fn(&mut sys::ggml_tensor, &mut sys::ggml_tensor);
        let changes: [Change; 3] = [
            |_, k| k.ne[0] = 24,
            |node, _| node.op_params[2] = 50.0_f32.to_bits().cast_signed(),
            |_, k| k.type_ = sys::GGML_TYPE_Q8_0,
        ];
        for change in changes {
            let (mut other, mut keys) = (before, k);
            other.src[1] = &raw mut keys;
            change(&mut other, &mut keys);
            show(&mut other, &mut attention, true);
            assert_eq!(other.op, sys::GGML_OP_FLASH_ATTN_EXT);
        }
    }
}
