//! A `llama_context`: the KV cache and the forward pass, behind a safe interface.
//!
//! llama-cpp-2 has a wrapper too, but it can neither change the number of threads while the model
//! is loaded nor bound the output buffer, so [`Context`] uses the C interface. Anything that
//! llama.cpp would answer with `abort()` is checked first.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::NonNull;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;
use threadrunner_core::Interrupt;

use super::attention::Attention;
use super::weights::{drives_a_gpu, raw};

/// The parameters of a context.
#[derive(Debug, Clone, Copy)]
pub(super) struct ContextSettings {
    /// The number of cells in the KV cache.
    pub n_ctx: u32,
    /// The maximum number of tokens in a forward pass.
    pub n_batch: u32,
    /// The maximum number of tokens computed at once within a forward pass.
    pub n_ubatch: u32,
    /// The maximum number of sequences in a forward pass.
    pub n_seq_max: u32,
    /// The number of sequences that can have cells in the cache.
    pub sequences: u32,
    /// How many of them, from the first on, can take part in a forward pass. If each needs memory
    /// of its own besides cells (a recurrent state, a window), that is allocated for this many.
    pub states: u32,
    /// The maximum number of rows of logits in a forward pass, beyond one for each sequence.
    pub drafts: u32,
    /// The number of threads to compute with.
    pub threads: u32,
}

/// Why a forward pass failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    /// The cache is full; nothing was changed.
    #[error("the KV cache has no room")]
    CacheFull,
    /// The batch breaks a rule, which is a bug in the caller.
    #[error("llama.cpp refused the batch: {0}")]
    Invalid(&'static str),
    /// The pass was interrupted; nothing was changed.
    #[error("interrupted")]
    Interrupted,
    /// Another llama.cpp error code.
    #[error("llama.cpp failed with code {0}")]
    Failed(i32),
}

/// The tokens of a forward pass.
#[derive(Debug, Default)]
pub(super) struct Batch {
    tokens: Vec<sys::llama_token>,
    positions: Vec<sys::llama_pos>,
    sequences: Vec<sys::llama_seq_id>,
    outputs: Vec<i8>,
}

impl Batch {
    /// Removes all tokens, keeping the memory.
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.outputs.clear();
    }

    /// Appends a token of `sequence` at `position`.
    pub(super) fn push(&mut self, token: i32, position: i32, sequence: i32) {
        self.tokens.push(token);
        self.positions.push(position);
        self.sequences.push(sequence);
        self.outputs.push(0);
    }

    /// Asks for the logits after the last token; false if there is no token.
    pub(super) fn want_output(&mut self) -> bool {
        match self.outputs.last_mut() {
            Some(output) => {
                *output = 1;
                true
            }
            None => false,
        }
    }

    /// The number of tokens.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }
}

/// An owned `llama_context`. Its model outlives it.
#[derive(Debug)]
pub(super) struct Context<'model> {
    raw: NonNull<sys::llama_context>,
    settings: ContextSettings,
    n_vocab: i32,
    /// For each row of the last forward pass, whether it has logits.
    outputs: Vec<i8>,
    interrupt: Option<Box<Interrupt>>,
    /// `None` if only llama.cpp's attention is available. Freed after the context, which calls it.
    attention: Option<Box<Attention>>,
    /// Whether the next forward pass uses it.
    own_attention: bool,
    /// For each sequence, a number shared by sequences with a common prefix.
    kin: Vec<u32>,
    /// The next unused kin number.
    next_kin: u32,
    model: PhantomData<&'model LlamaModel>,
}

/// How many tokens two sequences must share for their attention to be computed together.
const COMMON: i32 = 64;

impl<'model> Context<'model> {
    /// Creates a context, or returns `None` if llama.cpp cannot; its log says why.
    pub(super) fn new(model: &'model LlamaModel, mut settings: ContextSettings) -> Option<Self> {
        let raw_model = raw(model);
        // SAFETY: takes no arguments and returns a plain value.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = settings.n_ctx;
        params.n_batch = settings.n_batch;
        params.n_ubatch = settings.n_ubatch;
        params.n_seq_max = settings.states;
        // One row of logits for each sequence and draft instead of each token of a batch: with a
        // vocabulary of 262,144 tokens and batches of 512, this saves half a gigabyte.
        params.n_outputs_max = params.n_seq_max + settings.drafts;
        params.n_outputs_max_per_seq = 1 + settings.drafts;
        params.n_threads = i32::try_from(settings.threads).ok()?;
        params.n_threads_batch = params.n_threads;
        params.kv_unified = true;
        // Layers with sliding-window attention keep only what the windows of all states need, not a
        // whole context that they never read.
        params.swa_full = false;
        params.no_perf = true;
        let attention = if drives_a_gpu() { None } else { Attention::new() };
        if let Some(attention) = &attention {
            attention.install(&mut params);
        }
        // SAFETY: the model lives for `'model`, which outlives the context, and the engine creates
        // one context at a time (what is unsound is creating two of one model in parallel).
        let raw = NonNull::new(unsafe { sys::llama_init_from_model(raw_model, params) })?;
        // SAFETY: the context was just created; both calls only read it.
        unsafe {
            settings.n_ctx = sys::llama_n_ctx(raw.as_ptr());
            settings.n_batch = sys::llama_n_batch(raw.as_ptr());
        }
        let outputs = Vec::new();
        let next_kin = settings.sequences;
        Some(Self {
            raw,
            settings,
            n_vocab: model.n_vocab(),
            outputs,
            interrupt: None,
            attention,
            own_attention: true,
            kin: (0..next_kin).collect(),
            next_kin,
            model: PhantomData,
        })
    }

    /// The parameters, as rounded by llama.cpp.
    pub(super) fn settings(&self) -> &ContextSettings {
        &self.settings
    }

    /// Whether there is a cache to continue from; embedding models have none.
    pub(super) fn has_memory(&self) -> bool {
        !self.memory().is_null()
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: the context is alive; the call only reads a pointer in it.
        unsafe { sys::llama_get_memory(self.raw.as_ptr()) }
    }

    /// Sets the number of threads from the next forward pass on.
    pub(super) fn set_threads(&mut self, threads: u32) {
        let threads = i32::try_from(threads.max(1)).unwrap_or(1);
        // SAFETY: the context is alive and no forward pass is running (`&mut self`).
        unsafe { sys::llama_set_n_threads(self.raw.as_ptr(), threads, threads) };
    }

    /// Whether our own attention is available.
    pub(super) fn has_own_attention(&self) -> bool {
        self.attention.is_some()
    }

    /// Chooses, from the next forward pass on, between llama.cpp's attention and ours. Ours visits
    /// only each token's own cells and rounds differently; layers that it does not support stay
    /// llama.cpp's.
    pub(super) fn set_own_attention(&mut self, own: bool) {
        self.own_attention = own;
    }

    /// Lets `interrupt` end the next forward passes; `None` disables interruption.
    pub(super) fn listen_to(&mut self, interrupt: Option<&Interrupt>) {
        self.interrupt = interrupt.cloned().map(Box::new);
        let (callback, data): (sys::ggml_abort_callback, *mut c_void) = match &self.interrupt {
            Some(interrupt) => (Some(asked), std::ptr::from_ref(&**interrupt).cast_mut().cast()),
            None => (None, std::ptr::null_mut()),
        };
        // SAFETY: the context is alive. The callback reads an `Interrupt` in a box that lives until
        // it is replaced here, together with the pointer, or the context is freed.
        unsafe { sys::llama_set_abort_callback(self.raw.as_ptr(), callback, data) };
    }

    /// Runs one forward pass.
    pub(super) fn decode(&mut self, batch: &mut Batch) -> Result<(), DecodeError> {
        self.outputs.clear();
        if batch.len() == 0 || batch.len() > self.settings.n_batch as usize {
            return Err(DecodeError::Invalid("empty, or more tokens than n_batch"));
        }
        let in_range = |seq: &i32| (0..self.settings.states).contains(&(*seq as u32));
        if !batch.sequences.iter().all(in_range) {
            return Err(DecodeError::Invalid("a sequence that does not exist"));
        }
        if !batch.tokens.iter().all(|token| (0..self.n_vocab).contains(token)) {
            return Err(DecodeError::Invalid("a token that does not exist"));
        }
        if batch.outputs.iter().filter(|output| **output != 0).count()
            > (self.settings.n_seq_max + self.settings.drafts) as usize
        {
            return Err(DecodeError::Invalid("more outputs than sequences and drafts"));
        }
        if let Some(attention) = &mut self.attention {
            if self.own_attention {
                let kin: Vec<u32> =
                    batch.sequences.iter().map(|seq| self.kin[*seq as usize]).collect();
                attention.begin(&kin);
            } else {
                attention.stand_aside();
            }
        }
        let mut one_each = vec![1_i32; batch.len()];
        let mut sequences: Vec<*mut i32> =
            batch.sequences.iter_mut().map(std::ptr::from_mut).collect();
        let raw_batch = sys::llama_batch {
            n_tokens: i32::try_from(batch.tokens.len()).unwrap_or(i32::MAX),
            token: batch.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: batch.positions.as_mut_ptr(),
            n_seq_id: one_each.as_mut_ptr(),
            seq_id: sequences.as_mut_ptr(),
            logits: batch.outputs.as_mut_ptr(),
        };
        // SAFETY: every array of the batch has `n_tokens` elements and lives until the call
        // returns; llama.cpp keeps no pointer into it. Its length is at most `n_batch`, and its
        // sequences and tokens exist (checked above), so no assertion in llama.cpp can fail.
        match unsafe { sys::llama_decode(self.raw.as_ptr(), raw_batch) } {
            0 => {
                self.outputs.clone_from(&batch.outputs);
                Ok(())
            }
            1 => Err(DecodeError::CacheFull),
            // All of a batch is computed or none of it, because `n_ubatch` is `n_batch`.
            2 => Err(DecodeError::Interrupted),
            -1 => Err(DecodeError::Invalid("positions that do not follow the cache")),
            code => Err(DecodeError::Failed(code)),
        }
    }

    /// The logits after the token at `row` of the last batch, if they were asked for.
    pub(super) fn logits(&self, row: usize) -> Option<&[f32]> {
        if self.outputs.get(row).is_none_or(|output| *output == 0) {
            return None;
        }
        let index = i32::try_from(row).ok()?;
        // SAFETY: the last forward pass succeeded and computed an output for this row (checked
        // above); the call may wait for the computation, which `&self` does not observe.
        let data = unsafe { sys::llama_get_logits_ith(self.raw.as_ptr(), index) };
        let length = usize::try_from(self.n_vocab).ok()?;
        // SAFETY: llama.cpp returns null or one row of `n_vocab` floats, which stay unchanged until
        // the next forward pass, and that takes `&mut self`.
        (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data, length) })
    }

    /// Removes the cells of `sequence` from position `from` on; false if this model's cache cannot
    /// be cut there.
    pub(super) fn forget(&mut self, sequence: i32, from: i32) -> bool {
        let memory = self.memory();
        if memory.is_null() || !self.has_sequence(sequence) {
            return false;
        }
        if from <= 0 {
            self.kin[sequence as usize] = self.next_kin;
            self.next_kin = self.next_kin.wrapping_add(1);
        }
        // SAFETY: the memory belongs to this context, and the sequence is in range.
        unsafe { sys::llama_memory_seq_rm(memory, sequence, from, -1) }
    }

    /// Shares the cells of the first `tokens` tokens of `from` with `to`, which has no cells; false
    /// if some of them are no longer there. Only for attention caches in a single stream.
    pub(super) fn share(&mut self, from: i32, to: i32, tokens: i32) -> bool {
        let memory = self.memory();
        let exist = self.has_sequence(from) && self.has_sequence(to) && from != to;
        if memory.is_null() || !exist || tokens <= 0 {
            return false;
        }
        // SAFETY: the memory belongs to this context, and the sequence is in range.
        let (first, last) = unsafe {
            (
                sys::llama_memory_seq_pos_min(memory, from),
                sys::llama_memory_seq_pos_max(memory, from),
            )
        };
        // A sliding window loses its oldest positions. A whole sequence can be shared regardless,
        // because it continues from the same cells itself; a part must have lost nothing.
        let whole = last.checked_add(1) == Some(tokens);
        if first < 0 || (!whole && (first > 0 || last < tokens)) {
            return false;
        }
        if tokens >= COMMON {
            self.kin[to as usize] = self.kin[from as usize];
        }
        // SAFETY: as above, for both. All sequences are in one stream (`kv_unified`), where a part
        // may be copied: the cells get one more owner and nothing moves.
        unsafe {
            sys::llama_memory_seq_cp(memory, from, to, 0, tokens);
            sys::llama_memory_seq_pos_max(memory, to).checked_add(1) == Some(tokens)
        }
    }

    /// Transfers all cells of `from` to `to`, which has none. Only for attention caches in a single
    /// stream.
    pub(super) fn hand_over(&mut self, from: i32, to: i32) {
        let memory = self.memory();
        let exist = self.has_sequence(from) && self.has_sequence(to) && from != to;
        if memory.is_null() || !exist {
            return;
        }
        // SAFETY: the memory belongs to this context, and both sequences are in range.
        unsafe {
            sys::llama_memory_seq_cp(memory, from, to, -1, -1);
            sys::llama_memory_seq_rm(memory, from, -1, -1);
        }
        self.kin.swap(from as usize, to as usize);
    }

    /// The size in bytes of the state of `sequence`, which must be able to take part in a forward
    /// pass: for others, llama.cpp writes cells without an owner.
    pub(super) fn state_bytes(&self, sequence: i32) -> Option<usize> {
        if self.memory().is_null() || !self.in_pass(sequence) {
            return None;
        }
        // SAFETY: the context is alive, no forward pass is running (nothing else has the context),
        // and the sequence is in range; the call only reads.
        let bytes = unsafe { sys::llama_state_seq_get_size(self.raw.as_ptr(), sequence) };
        (bytes > 0).then_some(bytes)
    }

    /// The state of `sequence`, of size `bytes`, for [`Context::restore`].
    pub(super) fn state(&mut self, sequence: i32, bytes: usize) -> Option<Vec<u8>> {
        if self.memory().is_null() || !self.in_pass(sequence) {
            return None;
        }
        let mut state: Vec<u8> = Vec::new();
        state.try_reserve_exact(bytes).ok()?;
        // SAFETY: the context is alive and the sequence in range. The buffer has room for `bytes`
        // bytes; the call writes at most that many and returns how many it wrote.
        unsafe {
            let start = state.as_mut_ptr();
            let written = sys::llama_state_seq_get_data(self.raw.as_ptr(), start, bytes, sequence);
            if written != bytes {
                return None;
            }
            state.set_len(written);
        }
        Some(state)
    }

    /// Restores a state of `tokens` tokens, returned by [`Context::state`], into `sequence`, which
    /// is empty. If that fails, returns false and leaves it empty. llama.cpp checks layers, types
    /// and sizes, and trusts the rest.
    pub(super) fn restore(&mut self, sequence: i32, tokens: i32, state: &[u8]) -> bool {
        let memory = self.memory();
        if memory.is_null() || !self.has_sequence(sequence) || tokens <= 0 {
            return false;
        }
        // SAFETY: the context is alive and the sequence in range; the call reads only `state`. The
        // code that reads a state from disk checks that it is complete and was written by this
        // build for this model.
        let (read, last) = unsafe {
            let (start, length) = (state.as_ptr(), state.len());
            let read = sys::llama_state_seq_set_data(self.raw.as_ptr(), start, length, sequence);
            (read, sys::llama_memory_seq_pos_max(memory, sequence))
        };
        let restored = read == state.len() && last.checked_add(1) == Some(tokens);
        if !restored {
            self.forget(sequence, 0);
        }
        restored
    }

    fn in_pass(&self, sequence: i32) -> bool {
        u32::try_from(sequence).is_ok_and(|sequence| sequence < self.settings.states)
    }

    fn has_sequence(&self, sequence: i32) -> bool {
        u32::try_from(sequence).is_ok_and(|sequence| sequence < self.settings.sequences)
    }
}

/// The callback that llama.cpp calls between two operations of a forward pass.
unsafe extern "C" fn asked(interrupt: *mut c_void) -> bool {
    // SAFETY: `Context::listen_to` passed a pointer to an `Interrupt` that outlives its use. It is
    // only read, and consists of an atomic.
    unsafe { &*interrupt.cast::<Interrupt>() }.asked()
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: this value owns the context, and its model is still alive.
        unsafe { sys::llama_free(self.raw.as_ptr()) };
    }
}
