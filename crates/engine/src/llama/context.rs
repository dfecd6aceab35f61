//! A `llama_context`: the KV cache and the forward pass, behind a safe interface.
//!
//! llama-cpp-2 has a wrapper of its own, but it gives no way to change the number of threads
//! while the model is loaded, nor to bound the output buffer; so the context is made here from
//! the C interface. Whatever llama.cpp would answer with `abort()` is checked first.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::NonNull;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;
use threadrunner_core::Interrupt;

use super::attention::Attention;
use super::load::drives_a_gpu;

/// What a context is made with.
#[derive(Debug, Clone, Copy)]
pub(super) struct ContextSettings {
    /// Cells of the KV cache.
    pub n_ctx: u32,
    /// The most tokens in one forward pass.
    pub n_batch: u32,
    /// The most tokens computed at once within a forward pass.
    pub n_ubatch: u32,
    /// The most sequences in one forward pass.
    pub n_seq_max: u32,
    /// All sequences that can have something in the cache.
    pub sequences: u32,
    /// The first so many of them can take part in a forward pass. Where each needs memory of its own
    /// (a recurrent state, a window) and not just cells, that is for so many at once.
    pub states: u32,
    /// The most rows of logits of one forward pass beside one for each sequence in it.
    pub drafts: u32,
    /// Threads to compute with.
    pub threads: u32,
}

/// Why a forward pass did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    /// No room in the cache; nothing was changed.
    #[error("the KV cache has no room")]
    CacheFull,
    /// The batch breaks a rule: a bug of the caller.
    #[error("llama.cpp refused the batch: {0}")]
    Invalid(&'static str),
    /// It was interrupted; nothing was changed.
    #[error("interrupted")]
    Interrupted,
    /// llama.cpp's own code.
    #[error("llama.cpp failed with code {0}")]
    Failed(i32),
}

/// The tokens of one forward pass.
#[derive(Debug, Default)]
pub(super) struct Batch {
    tokens: Vec<sys::llama_token>,
    positions: Vec<sys::llama_pos>,
    sequences: Vec<sys::llama_seq_id>,
    outputs: Vec<i8>,
}

impl Batch {
    /// Forgets all tokens, and keeps the memory.
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

    /// Asks for the logits after the last token; false when there is none.
    pub(super) fn want_output(&mut self) -> bool {
        match self.outputs.last_mut() {
            Some(output) => {
                *output = 1;
                true
            }
            None => false,
        }
    }

    /// How many tokens.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }
}

/// A `llama_context`, owned; its model outlives it.
#[derive(Debug)]
pub(super) struct Context<'model> {
    raw: NonNull<sys::llama_context>,
    settings: ContextSettings,
    n_vocab: i32,
    /// Rows of the last forward pass that have logits, in batch order.
    outputs: Vec<i8>,
    interrupt: Option<Box<Interrupt>>,
    /// `None` where llama.cpp's own is used. Freed after the context, which calls it.
    attention: Option<Box<Attention>>,
    /// Whether it is to be used where there is one.
    own_attention: bool,
    /// Of each sequence: those that have a prefix in common have one number.
    kin: Vec<u32>,
    /// One that none has had.
    next_kin: u32,
    model: PhantomData<&'model LlamaModel>,
}

/// So many tokens in common are enough to look at them together.
const COMMON: i32 = 64;

impl<'model> Context<'model> {
    /// Makes a context, or `None` when llama.cpp cannot; its log says why.
    pub(super) fn new(model: &'model LlamaModel, mut settings: ContextSettings) -> Option<Self> {
        let raw_model = raw(model);
        // SAFETY: takes no arguments and returns a plain value.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = settings.n_ctx;
        params.n_batch = settings.n_batch;
        params.n_ubatch = settings.n_ubatch;
        params.n_seq_max = settings.states;
        // One row of logits for each sequence and draft, not one for each token of a batch: with
        // a vocabulary of 262,144 tokens and batches of 512 that saves half a gigabyte.
        params.n_outputs_max = params.n_seq_max + settings.drafts;
        params.n_outputs_max_per_seq = 1 + settings.drafts;
        params.n_threads = i32::try_from(settings.threads).ok()?;
        params.n_threads_batch = params.n_threads;
        params.kv_unified = true;
        // A layer whose attention is a window keeps what the windows of all states need, and not a
        // whole context that it never looks at.
        params.swa_full = false;
        params.no_perf = true;
        let attention = if drives_a_gpu() { None } else { Attention::new() };
        if let Some(attention) = &attention {
            attention.install(&mut params);
        }
        // SAFETY: the model is alive for `'model`, which outlives the context, and the engine
        // makes one context at a time (making two of one model in parallel is what is unsound).
        let raw = NonNull::new(unsafe { sys::llama_init_from_model(raw_model, params) })?;
        // SAFETY: the context was just made; both calls only read it.
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

    /// What the context was made with, as llama.cpp rounded it.
    pub(super) fn settings(&self) -> &ContextSettings {
        &self.settings
    }

    /// Whether there is a cache to continue from; models that only embed have none.
    pub(super) fn has_memory(&self) -> bool {
        !self.memory().is_null()
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: the context is alive; the call only reads a pointer in it.
        unsafe { sys::llama_get_memory(self.raw.as_ptr()) }
    }

    /// From the next forward pass on, computes with this many threads.
    pub(super) fn set_threads(&mut self, threads: u32) {
        let threads = i32::try_from(threads.max(1)).unwrap_or(1);
        // SAFETY: the context is alive and no forward pass is running (`&mut self`).
        unsafe { sys::llama_set_n_threads(self.raw.as_ptr(), threads, threads) };
    }

    /// Whether there is an attention of our own.
    pub(super) fn has_own_attention(&self) -> bool {
        self.attention.is_some()
    }

    /// From the next forward pass on, computes with llama.cpp's attention or, where it can, with
    /// ours, which looks at nothing but each token's own cells and rounds otherwise.
    pub(super) fn set_own_attention(&mut self, own: bool) {
        self.own_attention = own;
    }

    /// Lets `interrupt` end the forward passes to come, or with `None` nobody.
    pub(super) fn listen_to(&mut self, interrupt: Option<&Interrupt>) {
        self.interrupt = interrupt.cloned().map(Box::new);
        let (callback, data): (sys::ggml_abort_callback, *mut c_void) = match &self.interrupt {
            Some(interrupt) => (Some(asked), std::ptr::from_ref(&**interrupt).cast_mut().cast()),
            None => (None, std::ptr::null_mut()),
        };
        // SAFETY: the context is alive. The callback reads an `Interrupt` in a box that lives
        // until it is replaced here, together with the pointer, or the context is freed.
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
        // sequences and tokens exist (checked above), so no assertion of llama.cpp can fire.
        match unsafe { sys::llama_decode(self.raw.as_ptr(), raw_batch) } {
            0 => {
                self.outputs.clone_from(&batch.outputs);
                Ok(())
            }
            1 => Err(DecodeError::CacheFull),
            // A batch is computed whole or not at all, because `n_ubatch` is `n_batch`.
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
        // SAFETY: llama.cpp returns null or one row of `n_vocab` floats, which stay as they are
        // until the next forward pass, which takes `&mut self`.
        (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data, length) })
    }

    /// Forgets the cells of `sequence` from position `from` on; false when this model's cache
    /// cannot be cut there.
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

    /// Lets `to`, which has no cells, have those of the first `tokens` tokens of `from` too; false
    /// where some of them are not there (any more). Only for caches of attention, in one stream.
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
        // A window that slid has lost positions from the first on. All of a sequence is what it
        // went on with itself; a part must have lost nothing.
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

    /// Makes all cells of `from` those of `to`, which has none. Only for caches of attention, in
    /// one stream.
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

    /// How many bytes all that `sequence` has takes. It must be one that can take part in a forward
    /// pass: llama.cpp writes of others that nobody owns their cells.
    pub(super) fn state_bytes(&self, sequence: i32) -> Option<usize> {
        if self.memory().is_null() || !self.in_pass(sequence) {
            return None;
        }
        // SAFETY: the context is alive, no forward pass is running (nobody else has it), and the
        // sequence is in range; the call only reads.
        let bytes = unsafe { sys::llama_state_seq_get_size(self.raw.as_ptr(), sequence) };
        (bytes > 0).then_some(bytes)
    }

    /// All that `sequence` has, which takes `bytes`, for [`Context::restore`].
    pub(super) fn state(&mut self, sequence: i32, bytes: usize) -> Option<Vec<u8>> {
        if self.memory().is_null() || !self.in_pass(sequence) {
            return None;
        }
        let mut state: Vec<u8> = Vec::new();
        state.try_reserve_exact(bytes).ok()?;
        // SAFETY: the context is alive and the sequence in range. The buffer has room for `bytes`
        // bytes, of which the call writes no more than that, and says how many.
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

    /// Lets `sequence`, which has nothing, have what [`Context::state`] gave for one of so many
    /// tokens; false where that cannot be, and it has nothing then. llama.cpp checks that layers,
    /// types and sizes are its own; for all else it believes what it reads.
    pub(super) fn restore(&mut self, sequence: i32, tokens: i32, state: &[u8]) -> bool {
        let memory = self.memory();
        if memory.is_null() || !self.has_sequence(sequence) || tokens <= 0 {
            return false;
        }
        // SAFETY: the context is alive and the sequence in range; the call reads `state` and no
        // further. That it is whole and was written by this build for this model is checked by who
        // read it from the disk.
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

/// The window that this model's attention slides along the text; 0 is the whole text.
pub(super) fn window(model: &LlamaModel) -> u32 {
    // SAFETY: the model is alive; the call only reads it.
    u32::try_from(unsafe { sys::llama_model_n_swa(raw(model)) }).unwrap_or(0)
}

fn raw(model: &LlamaModel) -> *mut sys::llama_model {
    const {
        assert!(size_of::<LlamaModel>() == size_of::<*mut sys::llama_model>());
    }
    // SAFETY: `LlamaModel` is `repr(transparent)` over a non-null pointer to the C model; the
    // crate's version is pinned exactly, and the assertion above notices a change of size.
    unsafe { *std::ptr::from_ref(model).cast::<*mut sys::llama_model>() }
}

/// What llama.cpp asks between two operations of a forward pass, on each of its threads.
unsafe extern "C" fn asked(interrupt: *mut c_void) -> bool {
    // SAFETY: `Context::listen_to` passed a pointer to an `Interrupt` that outlives its use; it
    // is only read, and made of an atomic.
    unsafe { &*interrupt.cast::<Interrupt>() }.asked()
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: this value owns the context, and its model is still alive.
        unsafe { sys::llama_free(self.raw.as_ptr()) };
    }
}
